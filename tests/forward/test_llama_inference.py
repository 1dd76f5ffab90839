"""Joined weights give the answers of the base's own forward, for every kind of adapter."""

from __future__ import annotations

import dataclasses
import random
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.engine import Engine, GenerationRequest
from rung.forward.adapter import Adapter
from rung.forward.attention import TriePlan
from rung.forward.llama import lora_lanes
from rung.forward.llama.inference import LlamaInference
from rung.forward.steer import SteerOp, last_modules
from rung.forward.trie import Sequence
from rung.types import Decoding, Prompt
from tests.engine.world import engine_of, tiny_llama
from tests.models import tiny_adapter, tiny_model

LEAN = {"llama", "qwen2"}


def asked(name, ids, count=12):
    return GenerationRequest(
        name, Prompt(tuple(ids)), Decoding(max_tokens=count, temperature=1.0, seed=3), stop_ids=()
    )


def by_own_layers(engine):
    """The same engine through the base's own layers, as the reference."""
    engine.bank.inference = None
    return engine


def arranged(engine):
    """The engine after what `start` does, and how many passes are Llama inference from here on."""
    vars(engine.bank).pop("inference", None)
    engine.between(engine.scheduler.runner.arrange)
    inference, passes = engine.bank.inference, []
    if inference is not None:
        run = inference.run

        def runs(*args, **settings):
            passes.append(1)
            return run(*args, **settings)

        inference.run = runs
    return passes


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gpt2", "bloom"])
def test_only_what_is_built_that_way(family):
    requests = [asked("base", range(3, 3 + n)) for n in (9, 2, 30)]
    expected = by_own_layers(engine_of(tiny_model(family), ())).generate(requests)
    engine = engine_of(tiny_model(family), ())
    passes = arranged(engine)
    assert engine.generate(requests) == expected
    assert bool(passes) == (family in LEAN)


@pytest.mark.parametrize(
    "names", [("base",), ("lora",), ("base", "lora", "prefix_tuning", "prompt_tuning")]
)
def test_adapters_in_front_and_lora_are_lean(names):
    requests = [asked(n, range(3 + i, 20 + 2 * i)) for i, n in enumerate(names * 3)]
    expected = by_own_layers(engine_of(tiny_llama())).generate(requests)
    engine = engine_of(tiny_llama())
    passes = arranged(engine)
    assert engine.generate(requests) == expected
    assert len(passes) == 12  # the prompts, then a token each


@pytest.mark.parametrize("kind", ["last_layers", "full", "ia3"])
def test_others_take_the_ordinary_way(kind):
    engine = engine_of(tiny_llama(), ("lora",))
    other = engine.bank.add(tiny_adapter(engine.bank, kind))
    models = {**engine.models, kind: dataclasses.replace(engine.models["base"], name=kind, slot=other)}
    engine = Engine(engine.bank, models, memory=1 << 28)
    requests = [asked(n, range(5, 25), 6) for n in (kind, "lora", "base")]
    expected = by_own_layers(engine).generate(requests)
    passes = arranged(engine)
    assert engine.generate(requests) == expected
    assert passes == []
    engine.generate(requests[1:])
    assert len(passes) == 6


@pytest.mark.parametrize("room", [lora_lanes.MAX_BYTES, 0])
def test_many_loras_of_different_ranks_and_targets(room, monkeypatch):
    """More than are multiplied together; some leave projections alone; two share a slot's rows."""
    held = lora_lanes.LaneWeights.__init__
    monkeypatch.setattr(
        lora_lanes.LaneWeights, "__init__", lambda self, *a: held(self, *a, max_bytes=room)
    )
    engine = engine_of(tiny_llama(), ())
    for i in range(17):
        targets = {"targets": ["q_proj", "down_proj"]} if i % 3 == 1 else {}
        adapter = tiny_adapter(engine.bank, "lora", seed=i, rank=1 + i % 4, **targets)
        engine.load(dataclasses.replace(engine.models["base"], name=f"m{i}"), adapter)
    requests = [asked(f"m{i % 17}", range(4, 14 + i), 8) for i in range(24)]
    few = [asked(f"m{i}", range(4, 14), 8) for i in (1, 2, 1, 5)]
    by_own_layers(engine)
    expected = engine.generate(requests), engine.generate(few)
    passes = arranged(engine)
    assert (engine.generate(requests), engine.generate(few)) == expected
    assert passes


def test_the_base_computes_and_trains_as_before():
    model = tiny_llama()
    names = {n: p.clone() for n, p in model.named_parameters()}
    engine = engine_of(model, ("lora",))
    slot = engine.models["lora"].slot
    trie = engine.bank.trie([Sequence((5, 6, 7, 8), slot=slot)])
    before = engine.bank.forward(trie)
    arranged(engine)
    assert engine.bank.inference is not None
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in names.items()}
    assert all(torch.equal(p, names[n]) for n, p in model.named_parameters())
    assert torch.allclose(engine.bank.forward(trie), before, atol=1e-5)
    adapter = engine.bank.adapters[slot].trainable()
    engine.bank.forward(trie).sum().backward()
    assert all(t.grad is not None for t in adapter.parameters().values())


def test_a_base_that_differs_keeps_its_own_forward(monkeypatch):
    run = LlamaInference.run
    monkeypatch.setattr(LlamaInference, "run", lambda self, *args: run(self, *args) * 1.01)
    engine = engine_of(tiny_llama(), ())
    assert arranged(engine) == []
    assert engine.bank.inference is None


def steered(engine, layers, strength, seed=0, beside=None):
    """Vectors on the outputs of layers, in an adapter that may have LoRA elsewhere."""
    modules, generator = last_modules(engine.bank), torch.Generator().manual_seed(seed)
    ops = {
        modules[n]: SteerOp(torch.randn(engine.bank.width, generator=generator), strength)
        for n in layers
    }
    return Adapter(linear={**(beside.linear if beside else {}), **ops})


def with_steering(engine, count=3):
    """Steered models of other layers and strengths; the last one has LoRA on its attention too."""
    lora = tiny_adapter(engine.bank, "lora", seed=9, targets=["q_proj"])
    for i in range(count):
        last = i == count - 1
        adapter = steered(engine, [[1], [0, 2], [0]][i % 3], 2.0 - i, i, lora if last else None)
        engine.load(dataclasses.replace(engine.models["base"], name=f"s{i}"), adapter)
    return [f"s{i}" for i in range(count)]


@pytest.mark.parametrize("others", [("base",), ("base", "lora", "prompt_tuning"), ()])
def test_steered_models_are_lean_beside_others(others):
    """Prefill, decoding and the prefix cache; alone, and in one batch with other adapters."""
    engine = engine_of(tiny_llama(), tuple(n for n in others if n != "base"))
    names = [*with_steering(engine), *others]
    requests = [asked(n, range(3 + i, 20 + 2 * i)) for i, n in enumerate(names * 2)]
    alone = [asked("s1", range(5, 30))]
    inference = engine.bank.inference
    by_own_layers(engine)
    expected = engine.generate(requests), engine.generate(alone)
    assert len({tuple(c.ids) for c in expected[0]}) > len(names)
    engine.bank.inference = inference
    passes = arranged(engine)
    assert (engine.generate(requests), engine.generate(alone)) == expected
    assert len(passes) == 24  # the prompts, then a token each; twice


@pytest.mark.parametrize("room", [lora_lanes.MAX_BYTES, 0])
def test_more_steered_models_and_loras_than_are_multiplied_together(room, monkeypatch):
    held = lora_lanes.LaneWeights.__init__
    monkeypatch.setattr(
        lora_lanes.LaneWeights, "__init__", lambda self, *a: held(self, *a, max_bytes=room)
    )
    engine = engine_of(tiny_llama(), ())
    names = with_steering(engine, 9)
    for i in range(6):
        adapter = tiny_adapter(engine.bank, "lora", seed=i, rank=1 + i % 3)
        engine.load(dataclasses.replace(engine.models["base"], name=f"m{i}"), adapter)
        names.append(f"m{i}")
    requests = [asked(n, range(4, 14 + i), 8) for i, n in enumerate(names)]
    expected = by_own_layers(engine).generate(requests)
    passes = arranged(engine)
    assert engine.generate(requests) == expected
    assert passes


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_mixed_requests_are_answered_as_alone():
    """Bare, steered, LoRA, IA3, soft prompts and own weights: some join while others are under way."""
    others = ("lora", "ia3", "prompt_tuning", "prefix_tuning", "last_layers", "full")
    engine = engine_of(tiny_llama(), others)
    names, numbers = ["base", *with_steering(engine), *others], random.Random(5)
    arranged(engine)
    for _ in range(10_000 // 50):
        requests = [
            GenerationRequest(
                numbers.choice(names),
                Prompt(tuple(numbers.choices(range(3, 258), k=numbers.randint(1, 60)))),
                Decoding(
                    max_tokens=numbers.randint(1, 12), temperature=numbers.choice([0.0, 0.9]),
                    seed=numbers.randrange(9),
                ),
                stop_ids=(),
            )
            for _ in range(50)
        ]  # fmt: skip
        generations = []
        for request in requests:
            generations.append(engine.submit(request))
            for _ in range(numbers.randrange(2)):
                engine.step()
        while engine.step():
            pass
        together = [generation.result(0) for generation in generations]
        assert together == [engine.generate([request])[0] for request in requests]


@cache
def mixed():
    return engine_of(tiny_llama(), ())


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.lists(st.integers(3, 60), min_size=2, max_size=9), st.integers(0, 4)),
        min_size=1, max_size=7,
    ),
    strengths=st.tuples(st.floats(-3, 3, width=32), st.floats(-3, 3, width=32)),
)  # fmt: skip
def test_states_are_those_of_the_bases_own_layers(rows, strengths):
    """At every boundary, for random mixes of steering, LoRA, both in one adapter, and the base."""
    engine = mixed()
    bank = engine.bank
    lora = tiny_adapter(bank, "lora", seed=1)
    both = tiny_adapter(bank, "lora", seed=2, targets=["q_proj", "up_proj"])
    made = [
        steered(engine, [1], strengths[0]), steered(engine, [0, 2], strengths[1], 1), lora,
        steered(engine, [1], strengths[0], 2, both),
    ]  # fmt: skip
    slots = [*(bank.add(a) for a in made), -1]
    trie = bank.trie([Sequence(tuple(ids), slot=slots[which]) for ids, which in rows])
    wanted = range(len(bank.layer_names) + 1)
    try:
        with torch.inference_mode():
            plan = TriePlan(trie, bank.front(trie))
            assert bank.inference.suits(plan)
            entering, places = bank.embed(trie.ids, plan.slots), trie.positions
            ours = bank.inference.states(entering, places, plan, wanted)
            own = bank.layers.states(entering, places, TriePlan(trie, bank.front(trie)), wanted)
    finally:
        for slot in slots[:-1]:
            bank.remove(slot)
    for boundary in wanted:
        torch.testing.assert_close(ours[boundary], own[boundary], atol=2e-4, rtol=2e-4)


def test_a_vector_in_training_is_used_as_it_is_now():
    engine = engine_of(tiny_llama(), ())
    bank = engine.bank
    slot = bank.add(steered(engine, [0, 1], 1.0).trainable())
    trie = bank.trie([Sequence((5, 6, 7), slot=slot)])
    with torch.no_grad():
        for _ in range(2):
            assert bank.inference.suits(TriePlan(trie))
            found = bank.forward(trie)
            own = bank.layers.run(
                bank.embed(trie.ids, TriePlan(trie).slots), trie.positions, TriePlan(trie)
            )
            torch.testing.assert_close(found, own, atol=1e-4, rtol=1e-4)
            for tensor in bank.adapters[slot].parameters().values():
                tensor.mul_(-2.0)
