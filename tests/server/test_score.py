"""Rewards over HTTP."""

from __future__ import annotations

import httpx
import pytest
import torch

from rung.forward.reward_head import RewardHead
from tests.engine.world import engine_of, tiny_llama
from tests.models import tiny_adapter
from tests.server.conftest import serve


@pytest.fixture(scope="module")
def judged():
    engine = engine_of(tiny_llama(), methods=("lora",))
    template = engine.model("base").template
    adapter = tiny_adapter(engine.bank, "lora", seed=9)
    weight = torch.randn(engine.bank.width, generator=torch.Generator().manual_seed(1))
    adapter.reward = RewardHead(weight=weight, token=template.stop_ids[0])
    from rung.engine import ServedModel

    engine.load(ServedModel.of("judge", -1, template, adapter, root="base", parent="base"), adapter)
    served = serve(engine)
    with httpx.Client(base_url=served.url, timeout=20) as http:
        yield http, engine
    served.stop()


def score(http, **asked):
    return http.post("/v1/score", json={"model": "judge", **asked})


def test_prompts_with_answers_conversations_and_texts_are_scored(judged):
    http, engine = judged
    found = score(http, text_1="hello", text_2=["good", "bad"])
    assert found.status_code == 200
    body = found.json()
    assert [one["index"] for one in body["data"]] == [0, 1] and body["object"] == "list"
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "bad"}]
    alone = score(http, messages=turns).json()["data"][0]["score"]
    assert alone == pytest.approx(body["data"][1]["score"], abs=1e-5)
    model = engine.model("judge")
    plain = engine.score("judge", [model.judged("just a text")])
    assert score(http, input="just a text").json()["data"][0]["score"] == pytest.approx(plain[0])
    assert body["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"text_1": "a"}, "give both"),
        ({}, "one of them alone"),
        ({"text_1": ["a", "b"], "text_2": ["x", "y", "z"]}, "2 prompts"),
        ({"input": []}, "input"),
        ({"messages": [{"role": "user", "content": "a"}]}, "assistant"),
        ({"model": "base", "input": "a"}, "no reward model"),
        ({"model": "jugde", "input": "a"}, "judge"),
    ],
)
def test_faults_are_said(judged, asked, words):
    found = score(judged[0], **asked)
    assert 400 <= found.status_code < 500
    assert words in found.json()["error"]["message"]


def test_a_reward_model_writes_nothing(judged):
    body = {"model": "judge", "messages": [{"role": "user", "content": "a"}]}
    for stream in (False, True):
        found = judged[0].post("/v1/chat/completions", json={**body, "stream": stream})
        assert found.status_code == 400 and "reward model" in found.text


def test_equal_texts_score_alike_beside_other_requests(judged):
    http, _ = judged
    alone = score(http, input="the same text").json()["data"][0]["score"]
    many = score(http, input=["another", "the same text", "the same text and more"]).json()["data"]
    assert many[1]["score"] == pytest.approx(alone, abs=1e-5)
