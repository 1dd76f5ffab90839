"""The engine's queues: one protocol, all or none, and calls that do not stream."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch

from rung.engine import GenerationRequest
from rung.engine.request import ContextExceeded, DeadlineExceeded, EmbeddingRequest, EngineFault
from rung.errors import Busy, ConfigError, Interrupted
from rung.forward.classifier import Classifier
from rung.types import Decoding, Prompt
from tests.engine.world import NAMES, asked, engine_of, text, tiny_llama
from tests.models import tiny_adapter


class Sign(Classifier):
    """Says whether the first id is even."""

    labels = ("even", "odd")

    def probabilities(self, backbone, slot, prompts):
        return torch.tensor([[0.9, 0.1] if p.ids[0] % 2 == 0 else [0.2, 0.8] for p in prompts])

    def parameters(self):
        return {}


class Api:
    """A remote model that repeats the question."""

    at_once = 2

    def __init__(self):
        self.asked = []

    def ask(self, messages, decoding, heard=None, timeout=None):
        from rung.remote.model import RemoteAnswer

        self.asked.append(messages)
        heard(messages[-1]["content"])
        return RemoteAnswer(messages[-1]["content"], "stop", 3, 2)


@pytest.fixture
def mixed():
    """An engine that has a model of every kind."""
    engine = engine_of(tiny_llama(), ("lora",), max_waiting=4)
    base = engine.models["base"]
    engine.load(dataclasses.replace(base, name="sign", classifier=Sign()))
    engine.load(dataclasses.replace(base, name="api", remote=Api()))
    return engine


def said(name, content):
    prompt = Prompt((7, 8), ({"role": "user", "content": content},))
    return GenerationRequest(name, prompt, Decoding(max_tokens=3))


def test_one_call_answers_every_kind(mixed):
    requests = [
        asked("lora", text(0, 9)), said("sign", "x"), said("api", "hello"),
        EmbeddingRequest("base", Prompt((5, 6))), asked("base", text(1, 5)),
    ]  # fmt: skip
    told = []
    found = mixed.generate(requests, progress=told.append)
    assert sum(told) == 5
    alone = engine_of(tiny_llama(), ("lora",))
    assert [found[0], found[4]] == alone.generate([requests[0], requests[4]])
    assert found[1].text == "odd" and found[2].text == "hello"
    assert found[3].embedding.norm().item() == pytest.approx(1.0, abs=1e-5)
    assert torch.allclose(found[3].embedding, alone.embed("base", [(5, 6)])[0], atol=1e-5)


def test_all_or_none_whatever_the_kinds(mixed):
    api = mixed.models["api"].remote
    good = [said("sign", "x"), said("api", "hello"), asked("base", (3,))]
    for bad in (
        asked("base", ()), asked("base", (10**6,)), EmbeddingRequest("api", Prompt((3,))),
        EmbeddingRequest("base", Prompt(())), dataclasses.replace(good[1], logprobs=1),
        dataclasses.replace(good[0], prompt=Prompt(())),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            mixed.submit_all([*good, bad])
    with pytest.raises(ContextExceeded, match="holds 512 of them"):
        mixed.embed("base", [tuple(range(3, 9)) * 100])
    with pytest.raises(Busy):
        mixed.submit_all([*good, *[EmbeddingRequest("base", Prompt((3,)))] * 5])
    while mixed.step():
        pass
    assert all(len(queue) == 0 for queue in mixed.queues) and api.asked == []


@pytest.mark.parametrize("request_", [said("sign", "x"), EmbeddingRequest("base", Prompt((5, 6)))])
def test_cancelling_and_deadlines(mixed, request_):
    late = mixed.submit(dataclasses.replace(request_, deadline=0.0))
    gone, stays = mixed.submit(request_), mixed.submit(request_)
    gone.cancel()
    time.sleep(0.001)
    while mixed.step():
        pass
    assert gone.result(0).finish_reason == "cancelled" and stays.result(0).finish_reason == "stop"
    with pytest.raises(DeadlineExceeded):
        late.result(0)


def test_texts_of_several_clients_are_embedded_in_one_pass():
    engine, passes = engine_of(tiny_llama(), ("lora",)), []
    forward = engine.bank.forward
    engine.bank.forward = lambda trie, *rest: passes.append(len(trie.rows)) or forward(trie, *rest)
    requests = [EmbeddingRequest(n, Prompt(tuple(text(i, 8)))) for i in range(3) for n in NAMES[:2]]
    generations = [engine.submit(r) for r in requests]
    while engine.step():
        pass
    assert sorted(passes) == [3, 3]
    for request, generation in zip(requests, generations, strict=True):
        alone = engine.embed(request.model, [request.prompt.ids])[0]
        assert torch.allclose(generation.result(0).embedding, alone, atol=1e-5)


def test_values_that_are_not_finite_fail_alone():
    engine = engine_of(tiny_llama(), ("prefix_tuning",))
    broken = engine.bank.adapters[engine.models["prefix_tuning"].slot]
    broken.keys_values = torch.full_like(broken.keys_values, float("nan"))
    fine, spoiled = (
        engine.submit(EmbeddingRequest(n, Prompt((5, 6)))) for n in ("base", "prefix_tuning")
    )
    while engine.step():
        pass
    assert fine.result(0).embedding.isfinite().all()
    with pytest.raises(EngineFault, match="'prefix_tuning' computed values"):
        spoiled.result(0)
    with pytest.raises(EngineFault):
        engine.embed("prefix_tuning", [(5, 6)])


def test_embedding_leaves_the_adapters_of_running_requests_in_the_bank():
    """One adapter may be resident; the one that is answering stays beside it."""
    engine = engine_of(tiny_llama(), (), max_resident=1)
    base = engine.models["base"]
    for i in range(2):
        model = dataclasses.replace(base, name=f"m{i}", root="base", parent="base")
        engine.load(model, source=lambda i=i: tiny_adapter(engine.bank, "lora", seed=i))
    request = asked("m0", text(0, 9), 12)
    expected = engine.generate([request])[0]
    running = engine.submit(request)
    for _ in range(4):
        engine.step()
    engine.submit(EmbeddingRequest("m1", Prompt((5, 6))))
    while engine.step():
        pass
    assert running.result(0) == expected


def test_stopping_ends_what_is_asked_and_frees_its_lanes():
    engine, asks = engine_of(tiny_llama(), ("lora",)), iter(range(100))
    requests = [asked(n, text(i, 12), 50) for i, n in enumerate(NAMES[:2] * 3)]
    with pytest.raises(Interrupted):
        engine.generate(requests, stopping=lambda: next(asks) > 6)
    assert not engine.scheduler.busy
    fresh = engine_of(tiny_llama(), ("lora",))
    assert engine.generate(requests) == fresh.generate(requests)


def test_throughput_changes_no_answer():
    engine = engine_of(tiny_llama())
    way = {"temperature": 1.0, "seed": 3}
    requests = [asked(n, text(i, 30 + i), 9, **way) for i in range(3) for n in NAMES]
    assert engine.generate(requests) == engine.generate(requests, throughput=False)
    engine.start()
    try:
        told = []
        assert engine.generate(requests, progress=told.append, stopping=lambda: False) == (
            engine.generate(requests, throughput=False)
        )
        assert sum(told) == len(requests)
    finally:
        engine.stop()


def test_an_api_is_asked_again_after_a_stop(mixed):
    mixed.start()
    mixed.stop()
    mixed.start()
    try:
        assert mixed.submit(said("api", "again")).result(5).text == "again"
    finally:
        mixed.stop()
