"""Steering: equal to hooks that add the vector, beside other adapters, and no letter in disguise."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung import methods
from rung.errors import ArtefactError
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.forward.steer import SteerOp, last_modules, unit
from rung.forward.trie import Sequence
from rung.methods.base import Study
from rung.methods.steering.curve import at_strength, curve
from rung.methods.steering.fitting import direction, letter_direction
from rung.types import Example, Task
from tests.models import VOCABULARY, tiny_adapter, tiny_model

FAMILIES = ("llama", "qwen2", "gemma2", "gemma3", "gpt2")
ids = st.lists(st.integers(3, VOCABULARY - 1), min_size=2, max_size=9)
BANKS: dict[str, Bank] = {}


def bank_of(family: str) -> Bank:
    if family not in BANKS:
        BANKS[family] = Bank(tiny_model(family))
    return BANKS[family]


def steered(bank: Bank, layers: list[int], strength: float, seed: int = 0) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    modules = last_modules(bank)
    return Adapter(
        linear={
            modules[n]: SteerOp(torch.randn(bank.width, generator=generator), strength) for n in layers
        }  # fmt: skip
    )


def hooked(bank: Bank, adapter: Adapter, row: list[int]) -> torch.Tensor:
    """transformers' logits with a hook on each layer that adds the vector to its output."""
    hooks = []
    for name, op in adapter.linear.items():
        layer = bank.modules[bank.layer_names[bank.layers.boundary_of(name)]]

        def add(module: Any, args: Any, out: Any, shift: torch.Tensor = op.strength * op.vector):
            return (out[0] + shift, *out[1:]) if isinstance(out, tuple) else out + shift

        hooks.append(layer.register_forward_hook(add))
    bank.plan, bank.slots = None, None
    before = bank.model.config._attn_implementation
    try:
        bank.model.set_attn_implementation("eager")
        return bank.model(input_ids=torch.tensor([row]), use_cache=False).logits[0]
    finally:
        bank.model.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()


def logits(bank: Bank, rows: list[tuple[list[int], int]]) -> list[torch.Tensor]:
    trie = bank.trie([Sequence(row, slot=slot) for row, slot in rows])
    hidden = bank.forward(trie)
    return [
        bank.logits(hidden[torch.from_numpy(np.asarray(path))], [slot] * len(path))
        for path, (_, slot) in zip(trie.rows, rows, strict=True)
    ]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, deadline=None)
@given(
    row=ids, layers=st.sets(st.integers(0, 2), min_size=1), strength=st.floats(-3, 3, width=32),
    training=st.booleans(),
)  # fmt: skip
def test_it_is_the_vector_added_to_the_layers_output(family, row, layers, strength, training):
    bank = bank_of(family)
    adapter = steered(bank, sorted(layers), strength)
    with torch.no_grad():
        expected = hooked(bank, adapter, row)
    slot = bank.add(adapter)
    try:
        with torch.set_grad_enabled(training):
            (found,) = logits(bank, [(row, slot)])
    finally:
        bank.remove(slot)
    torch.testing.assert_close(found.detach(), expected, atol=1e-4, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(rows=st.lists(st.tuples(ids, st.integers(0, 4)), min_size=2, max_size=8))
def test_in_one_batch_with_others_each_is_as_it_is_alone(rows):
    bank = bank_of("llama")
    made = [
        steered(bank, [1], 1.5), steered(bank, [0, 2], -0.5, seed=1), tiny_adapter(bank, "lora"),
        tiny_adapter(bank, "prompt_tuning"),
    ]  # fmt: skip
    slots = [*(bank.add(a) for a in made), -1]
    asked = [(row, slots[which]) for row, which in rows]
    try:
        with torch.no_grad():
            together = logits(bank, asked)
            for one, found in zip(asked, together, strict=True):
                torch.testing.assert_close(found, logits(bank, [one])[0], atol=1e-4, rtol=1e-4)
    finally:
        for slot in slots[:-1]:
            bank.remove(slot)


def letter_answered(pairs: int = 40, width: int = 24) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """Differences of pairs that hold a concept, and ten times as long the letter."""
    generator = torch.Generator().manual_seed(0)
    letter, concept = torch.eye(width)[0], torch.eye(width)[1]
    letters = np.array(["A", "B"] * (pairs // 2))
    signs = torch.tensor([1.0 if x == "A" else -1.0 for x in letters])
    noise = 0.1 * torch.randn(pairs, width, generator=generator)
    return concept + 10 * signs[:, None] * letter + noise, letters, concept


def test_the_first_component_of_letter_answered_pairs_is_the_letter_and_the_mean_is_not():
    differences, letters, concept = letter_answered()
    letter = unit(letter_direction(differences, letters))
    assert abs(float(unit(direction(differences, letters, "pca")) @ letter)) > 0.99
    mean = unit(direction(differences, letters, "mean"))
    assert abs(float(mean @ letter)) < 0.2
    assert float(mean @ concept) > 0.95


def test_letters_count_the_same_however_many_pairs_each_has():
    differences, letters, concept = letter_answered()
    some = [i for i, x in enumerate(letters) if x == "A"] + [1, 3, 5]
    mean = unit(direction(differences[some], letters[some], "mean"))
    assert float(mean @ concept) > 0.95


def contrasts(count: int, letters: bool = False) -> list[Example]:
    draw, found = random.Random(0), []
    for i in range(count):
        good, bad = ("yes, gladly", "no, never") if not letters else ("AB" if i % 2 else "BA")
        ask = {"role": "user", "content": "".join(draw.choices("abcdefgh ", k=12))}
        say = [{"role": "assistant", "content": text} for text in (good, bad)]
        found.append(Example(messages=(ask, say[0]), rejected=(ask, say[1]), origin=f"row {i}"))
    return found


def study_of(template: Any, tmp_path: Path, rows: list[Example], notes: list[str]) -> Study:
    from transformers import AutoModelForCausalLM

    from tests.models import tiny_config

    config = tiny_config("llama")
    config.vocab_size, config.num_hidden_layers = max(272, len(template.tokenizer)), 5
    config.max_position_embeddings = 512
    torch.manual_seed(0)
    bank = Bank(AutoModelForCausalLM.from_config(config).eval())
    split = len(rows) * 3 // 4
    task = Task("preference", "preference_accuracy")
    return Study(bank, template, task, rows[:split], rows[split:], 0, tmp_path, notes.append)


def test_layers_are_the_middle_third_or_those_that_separate_best() -> None:
    from rung.methods.steering.fitting import _layers

    config, held = methods.get("steering").Config, {n: (0.5 + n / 20, 1.0) for n in range(6)}
    assert _layers(config(), list(held), held) == [2, 3]
    assert _layers(config(pick_layers="separation"), list(held), held) == [4, 5]
    assert _layers(config(steered=[3, 1], pick_layers="separation"), list(held), held) == [1, 3]


@pytest.mark.parametrize("kind", ["mean", "pca", "probe"])
def test_fit_reports_effect_and_damage_by_strength(kind, template, tmp_path, rung_home):
    notes: list[str] = []
    study = study_of(template, tmp_path, contrasts(24), notes)
    method = methods.get("steering")
    config = method.Config(direction=kind, strengths=[0.0, 1.0, 4.0])
    fitted = method.fit(study, config)
    assert fitted.metrics["separation"] == 1.0
    assert abs(fitted.metrics["margin_at_4"] - fitted.metrics["margin_at_0"]) > 1e-4
    assert "letter_cosine" not in fitted.metrics
    assert not study.bank.adapters
    written = json.loads(json.dumps(method.to_files(fitted.adapter, study.bank, config)[0]))
    tensors = method.to_files(fitted.adapter, study.bank, config)[1]
    again = method.from_files(written, tensors, study.bank)
    assert {n: op.strength for n, op in again.linear.items()} == {
        n: op.strength for n, op in fitted.adapter.linear.items()
    }
    with pytest.raises(ArtefactError, match=r"direction\.99"):
        method.from_files(written, {"direction.99": tensors.popitem()[1]}, study.bank)


def test_a_base_in_few_bits_is_steered_too(template, tmp_path, rung_home):
    """Its sums are rounded by far more than float32's, beside a short vector."""
    study = study_of(template, tmp_path, contrasts(24), [])
    model = study.bank.model
    study.bank.close()
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(3)  # what all states have in common
    study = dataclasses.replace(study, bank=Bank(model.to(torch.bfloat16)))
    method = methods.get("steering")
    fitted = method.fit(study, method.Config(strengths=[0.0, 1.0]))
    assert fitted.metrics["held_out_pairs"] > 0


def test_the_curve_is_what_hooks_give(tmp_path, template):
    bank = bank_of("llama")
    adapter = steered(bank, [0, 1], 1.0)
    task = Task("preference", "preference_accuracy")
    study = Study(bank, template, task, [], [], 0, tmp_path, str)
    sides = [((4, 5, 6, 7), (4, 5, 8, 9, 10)), ((11, 12, 3), (11, 12, 4))]
    (point,) = curve(study, sides, adapter, [0.5])
    margins, lost = [], []
    for pair in sides:
        with torch.no_grad():
            logs = [hooked(bank, at_strength(adapter, 0.5), list(s)).log_softmax(-1) for s in pair]
        gold = [log[range(len(s) - 1), list(s[1:])] for log, s in zip(logs, pair, strict=True)]
        margins.append(float(gold[0][1:].sum() - gold[1][1:].sum()))
        lost.append(-float(gold[0][0]))
    assert point.margin == pytest.approx(np.mean(margins), abs=1e-3)
    assert point.perplexity == pytest.approx(np.exp(np.mean(lost)), rel=1e-3)
    assert point.preference == np.mean([m > 0 for m in margins])
    assert not bank.adapters


def test_the_confound_of_letters_is_reported(template, tmp_path, rung_home):
    notes: list[str] = []
    study = study_of(template, tmp_path, contrasts(24, letters=True), notes)
    method = methods.get("steering")
    fitted = method.fit(study, method.Config(direction="pca"))
    assert fitted.metrics["letter_cosine"] > 0.9
    assert {"separation_A", "separation_B"} <= set(fitted.metrics)
    assert any("cosine with the letter" in note for note in notes)


def test_the_last_layer_is_refused_by_name():
    bank, method = bank_of("llama"), methods.get("steering")
    assert "--steered 2" in method.misfit(bank, method.Config(steered=[2]))
    assert method.misfit(bank, method.Config(steered=[1])) is None
