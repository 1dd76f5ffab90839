"""What stands around a model: checks, moderation, a system message, documents, and the trace of it."""

from __future__ import annotations

import json
import logging
import time

import openai
import pytest

from rung.errors import ConfigError
from tests.engine.world import engine_of, tiny_llama
from tests.server.conftest import serve
from tests.server.shop import client_of

HELLO = [{"role": "user", "content": "Where is the key?"}]


def strict(text):
    """A judge as a user would write one; named `tests.server.test_stages:strict` below."""
    return {"violence": float("kill" in text), "safe": 0.0}


def anything(text):
    return {"hate": 1.0}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    from rung.server.stages import parse
    from rung.server.state import Settings

    folder = tmp_path_factory.mktemp("documents")
    (folder / "house.md").write_text("The key of the cellar hangs behind the clock.")
    (folder / "garden.txt").write_text("Roses want sun and little water.")
    here = "tests.server.test_stages"
    stages = parse(
        {
            "*": {"refuse": ["(?i)card number"]},
            "lora": {"documents": str(folder), "passages": 1, "system": "Be brief."},
            "prompt_tuning": {"max_characters": 30, "trace": False},
            "full": {"moderate": ["requests"], "moderation": f"{here}:strict"},
            "last_layers": {"moderate": "answers", "moderation": f"{here}:anything"},
        }
    )
    made = serve(engine_of(tiny_llama()), settings=Settings(stages=stages, log=True))
    yield made
    made.stop()


@pytest.fixture
def client(served):
    with client_of(served) as made:
        yield made


def chat(client, model, text="Where is the key?", **settings):
    messages = [{"role": "user", "content": text}]
    settings = {"max_tokens": 4, "extra_body": {"trace": True}, **settings}
    return client.chat.completions.create(model=model, messages=messages, **settings)


def refused(call, code):
    with pytest.raises(openai.BadRequestError) as fault:
        call()
    assert fault.value.code == code
    return fault.value


def test_checks_refuse_what_comes_in(client, served, caplog):
    with caplog.at_level(logging.INFO, "rung.requests"):
        refused(lambda: chat(client, "base", "My CARD number is 3"), "request_refused")
        end = time.monotonic() + 5  # the line is written after the answer has gone out
        while not caplog.records and time.monotonic() < end:
            time.sleep(0.01)
    line = json.loads(caplog.records[-1].getMessage())
    assert line["status"] == 400 and list(line["stages"]) == ["checks"]
    long = refused(lambda: chat(client, "prompt_tuning", "x" * 31, extra_body={}), "request_refused")
    assert "31 characters" in long.message and "30" in long.message
    assert chat(client, "prompt_tuning", "x" * 30, extra_body={}).choices
    assert chat(client, "base", "x" * 31).choices
    # A prompt of ids is read too, also one that hides the words among several.
    ids = served.engine.model("base").template.encode("a card number")
    for prompt in (ids, [ids], ["fine", "card number"]):
        ask = {"model": "base", "prompt": prompt, "max_tokens": 2}
        refused(lambda ask=ask: client.completions.create(**ask), "request_refused")
    wrong = {"model": "base", "prompt": [10**6], "max_tokens": 2}
    assert refused(lambda: client.completions.create(**wrong), None).param == "prompt"


def test_what_a_client_writes_as_the_assistant_is_checked_too(client):
    def ask(model, *said):
        turns = [
            {"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(said)
        ]
        return client.chat.completions.create(model=model, messages=turns, max_tokens=2)

    refused(lambda: ask("base", "Go on", "My card number is", "And?"), "request_refused")
    refused(lambda: ask("base", "Go on", "My card number is"), "request_refused")
    long = refused(lambda: ask("prompt_tuning", "x" * 10, "y" * 11, "z" * 10), "request_refused")
    assert "31 characters" in long.message
    # What a model answered before is not moderated again, what it is to go on with is.
    assert ask("full", "Go on", "kill", "And?").choices
    refused(lambda: ask("full", "Go on", "kill"), "content_filter")


def test_documents_and_a_system_message_go_in_front(client):
    told = chat(client, "lora").trace
    assert [note["stage"] for note in told["stages"]] == ["checks", "system message", "retrieval"]
    assert [p["source"] for p in told["stages"][2]["passages"]] == ["house.md"]
    prompt = told["prompts"][0]
    assert "Be brief." in prompt and "behind the clock" in prompt and "Roses" not in prompt
    own = [{"role": "system", "content": "Rhyme."}, *HELLO]
    answer = client.chat.completions.create(
        model="lora", messages=own, max_tokens=2, extra_body={"trace": True}
    )
    prompt = answer.trace["prompts"][0]
    assert "Rhyme." in prompt and "Be brief." not in prompt
    assert chat(client, "base").trace["prompts"][0].count("clock") == 0
    # What is streamed ends with the trace too.
    chunks = list(chat(client, "lora", stream=True))
    assert chunks[-1].choices == [] and chunks[-1].trace["prompts"] == told["prompts"]
    assert not any(hasattr(c, "trace") for c in chunks[:-1])


def test_a_trace_can_be_denied(client):
    assert refused(lambda: chat(client, "prompt_tuning"), None).param == "trace"


def test_moderation_by_functions_per_model(client):
    refused(lambda: chat(client, "full", "kill"), "content_filter")
    refused(lambda: client.completions.create(model="full", prompt="kill"), "content_filter")
    told = chat(client, "full").trace["stages"][-1]
    assert told["by"] == "strict" and told["flagged"] == [False]
    assert chat(client, "base", "kill").choices[0].finish_reason != "content_filter"
    answer = chat(client, "last_layers", "kill", n=2)
    assert [c.finish_reason for c in answer.choices] == ["content_filter"] * 2
    assert [c.message.content for c in answer.choices] == ["", ""]
    assert answer.trace["stages"][-1]["scores"] == [{"hate": 1.0}] * 2
    chunks = list(chat(client, "last_layers", stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ""
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "content_filter"
    plain = client.completions.create(model="last_layers", prompt="x", max_tokens=4, logprobs=1)
    assert plain.choices[0].text == "" and plain.choices[0].logprobs.tokens == []


def test_all_faults_of_stages_are_told_at_once():
    from rung.server.stages import judge_of, parse, read

    with pytest.raises(ConfigError) as fault:
        parse(
            {
                "a": {"max_charaters": 3},
                "b": {"passages": 0, "refuse": ["("]},
                "c": 3,
                "d": {"refuse": "(a+)+"},
            }
        )
    told = str(fault.value)
    for words in ("'a'", "did you mean 'max_characters'", "'b'", "passages is 0", "'c'", "'d'"):
        assert words in told, (words, told)
    with pytest.raises(ConfigError, match="cannot read"):
        read("nowhere.yaml")
    for wrong in ("nomodule:judge", "json:nothing", "json:decoder.py", "string:digits"):
        with pytest.raises(ConfigError, match="moderation"):
            judge_of(wrong)


def test_stages_that_lack_something_are_told_before_serving(tmp_path):
    from rung.errors import RungError
    from rung.server.app import create_app
    from rung.server.stages import parse
    from rung.server.state import Settings

    for stages, words in (
        ({"base": {"moderate": "requests"}}, "--moderation"),
        ({"base": {"moderate": "requests", "moderation": "base"}}, "linear_probe"),
        ({"base": {"documents": str(tmp_path / "none")}}, "none"),
    ):
        with pytest.raises(RungError, match=words):
            create_app(engine_of(tiny_llama(), ()), settings=Settings(stages=parse(stages)))
