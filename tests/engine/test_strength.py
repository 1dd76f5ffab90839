"""A steered model at the strength of each request: as a model of that strength alone."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from rung.engine import GenerationRequest
from rung.engine.registry import MAX_STRENGTHS
from rung.errors import ConfigError
from rung.forward.adapter import Adapter
from rung.forward.steer import SteerOp, last_modules
from rung.types import Decoding, Prompt
from tests.engine.world import engine_of, text, tiny_llama
from tests.models import tiny_adapter

PROMPT = tuple(range(40, 60))


def calm(engine, strength=1.0) -> Adapter:
    modules = last_modules(engine.bank)
    generator = torch.Generator().manual_seed(0)
    vectors = 3 * torch.randn(len(modules), engine.bank.width, generator=generator)
    return Adapter(linear={modules[n]: SteerOp(vectors[n], strength) for n in (0, 1)})


def world(strength=1.0):
    engine = engine_of(tiny_llama(), ())
    base = engine.models["base"]
    engine.load(dataclasses.replace(base, name="calm", root="base"), calm(engine, strength))
    for name, method in (("lora", "lora"), ("soft", "prompt_tuning")):
        adapter = tiny_adapter(engine.bank, method)
        engine.load(dataclasses.replace(base, name=name, root="base"), adapter)
    return engine


def asked(name="calm", strength=None, layers=()):
    decoding = Decoding(max_tokens=8, strength=strength, layers=layers)
    return GenerationRequest(name, Prompt(PROMPT), decoding, stop_ids=(), logprobs=0)


def logprobs(completion):
    return [token.logprob for token in completion.tokens]


def test_each_strength_is_as_a_model_of_that_strength_alone_and_shares_no_prefix():
    strengths = [None, 0.5, 2.0, 0.0, 0.5]
    engine = world().start()
    try:
        for _ in range(2):  # the second time from the prefix cache
            sent = [asked(strength=s) for s in strengths] + [asked("lora"), asked("base")]
            found = [g.result(60) for g in engine.submit_all(sent)]
            for strength, one in zip(strengths, found, strict=False):
                alone = world(1.0 if strength is None else strength).generate([asked()])[0]
                assert one.ids == alone.ids
                assert logprobs(one) == pytest.approx(logprobs(alone), abs=1e-4)
            assert found[3].ids == found[-1].ids  # strength 0 is the base
    finally:
        engine.stop()
    assert logprobs(found[0]) != pytest.approx(logprobs(found[2]), abs=1e-2)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mixed_requests_are_each_as_alone(count):
    """Steered, LoRA, soft-prompt and bare ones together, greedy and drawn, as each is by itself."""
    draw = random.Random(count)
    kinds = [
        ("calm", None),
        ("calm", 0.5),
        ("calm", -1.0),
        ("lora", None),
        ("soft", None),
        ("base", None),
    ]
    different = [
        GenerationRequest(
            name, Prompt(tuple(text(draw.randrange(40), draw.randint(1, 60)))),
            Decoding(max_tokens=draw.randint(1, 12), temperature=draw.choice([0.0, 1.0]), seed=i,
                     strength=strength),
            stop_ids=(), logprobs=0,
        )
        for i, (name, strength) in enumerate(kinds * max(4, count // 200))
    ]  # fmt: skip
    alone = {one: world().generate([one])[0] for one in different}
    engine = world().start()
    try:
        sent = [draw.choice(different) for _ in range(count)]
        for at in range(0, count, 200):
            part = sent[at : at + 200]
            for one, going in zip(part, engine.submit_all(part), strict=True):
                found = going.result(600)
                assert found.ids == alone[one].ids
                assert logprobs(found) == pytest.approx(logprobs(alone[one]), abs=1e-4)
    finally:
        engine.stop()


def test_strengths_are_bounded_and_leave_with_their_model():
    engine = world()
    for i in range(MAX_STRENGTHS + 5):
        engine.generate([asked(strength=i / 10)])
    assert len(engine.bank.adapters) <= MAX_STRENGTHS + 3
    engine.unload("calm")
    engine.step()
    assert len(engine.bank.adapters) == 2


def test_other_models_refuse_a_strength_by_name():
    for name in ("lora", "base"):
        with pytest.raises(ConfigError, match=f"'{name}' is none"):
            world().generate([asked(name, 0.5)])


def test_the_layers_of_each_request_steer_alone():
    """In one batch: both layers, each of the two at its own strength, and one at another."""
    asks = [((), None), ((0,), None), ((1,), None), ((1, 0), 0.5), ((1,), 0.5)]
    found = world().generate([asked(layers=layers, strength=s) for layers, s in asks])
    for (layers, strength), one in zip(asks, found, strict=True):
        engine = world(1.0 if strength is None else strength)
        slot = engine.models["calm"].slot
        modules = last_modules(engine.bank)
        whole = engine.bank.adapters[slot]
        kept = {modules[n]: whole.linear[modules[n]] for n in layers or (0, 1)}
        engine.bank.put(slot, Adapter(linear=kept))
        alone = engine.generate([asked()])[0]
        assert one.ids == alone.ids
        assert logprobs(one) == pytest.approx(logprobs(alone), abs=1e-4)
    assert len({tuple(one.ids) for one in found}) > 1


def test_layers_that_a_model_does_not_steer_are_refused_by_name():
    with pytest.raises(ConfigError, match="'layers' names 2, and 'calm' steers 0, 1"):
        world().generate([asked(layers=(2,))])
    with pytest.raises(ConfigError, match="'layers' is for steered models, and 'lora' is none"):
        world().generate([asked("lora", layers=(0,))])


def test_the_own_strength_of_a_model_is_known():
    engine = world(1.5)
    assert engine.registry.strength("calm") == 1.5
    assert engine.registry.strength("lora") is engine.registry.strength("base") is None
