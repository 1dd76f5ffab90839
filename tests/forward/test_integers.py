"""Products of codes with codes: exact sums on every processor, and each row for itself."""

from __future__ import annotations

import copy
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.bases import quantize as quantizing
from rung.bases.quantized import Int4, Int8
from rung.engine.decode import DecodePlan
from rung.forward.bank import Bank
from rung.forward.compiled import compiler, integers
from rung.forward.compiled.structures import weight_of
from rung.forward.llama.inference import LlamaInference
from rung.forward.llama.prepacked import Packing
from rung.forward.slots import Slots
from rung.forward.trie import Sequence
from tests.engine.world import asked, engine_of, text, tiny_llama
from tests.forward.test_compiled import compiled_of, compiles, random_adapter, step_of

BLOCK = 32  # inputs that share a scale
INSTRUCTIONS = ("", "avx2", "default")  # of the processor: all it has, AVX2, the least of its family
CODES = {"int8": Int8, "int4": Int4}


def library(instructions: str):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(compiler.CAPABILITY, instructions)
        return compiler.library()


def product(instructions: str, weight, x: torch.Tensor, bias: torch.Tensor | None = None, kept=False):
    structure, held = weight_of(weight, bias)
    if kept:
        held.append(integers.panels_of(library(instructions), structure))
        structure.panels = held[-1].data_ptr()
    found = integers.multiply(library(instructions), structure, x)
    del held
    return found


def coded(x: torch.Tensor) -> torch.Tensor:
    """What the codes of an input stand for, (n, columns) float64: the rule, written down once more."""
    columns = x.shape[1]
    blocks = torch.nn.functional.pad(x, (0, -columns % BLOCK)).unflatten(1, (-1, BLOCK)).numpy()
    most = np.abs(blocks).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), most, where=most > 0, out=np.zeros_like(most))
    codes = np.rint(blocks * inverse).astype(np.float64)
    numbers = codes * (most / np.float32(127)).astype(np.float64)
    return torch.from_numpy(numbers).flatten(1)[:, :columns]


@compiles
@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@settings(max_examples=25)
@given(
    kind=st.sampled_from(["int8", "int4"]),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 200)),
    rows=st.integers(1, 30),
    seed=st.integers(0, 1000),
    biased=st.booleans(),
)
def test_a_product_is_that_of_the_codes(instructions, kind, shape, rows, seed, biased):
    draw = torch.Generator().manual_seed(seed)
    weight = CODES[kind].of(torch.randn(shape, generator=draw), torch.float32)
    x = torch.randn(rows, shape[1], generator=draw) * torch.rand(rows, 1, generator=draw) * 100
    bias = torch.randn(shape[0], generator=draw) if biased else None
    found = product(instructions, weight, x, bias)
    whole = weight.whole().double()
    expected = coded(x) @ whole.t() + (0 if bias is None else bias.double())
    # Rounding grows with what is summed, not with what is left of it.
    size = coded(x).abs() @ whole.abs().t() + 1
    assert bool(((found - expected).abs() <= 3e-6 * size).all())
    alone = torch.cat([product(instructions, weight, row[None], bias) for row in x])
    assert torch.equal(alone, found)
    assert torch.equal(product(instructions, weight, x, bias, kept=True), found)


@compiles
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_sums_are_exact_with_any_instructions(kind):
    """The largest codes there are, and scales by which float32 loses nothing."""
    draw = torch.Generator().manual_seed(0)
    most = 127 if kind == "int8" else 15
    codes = torch.randint(-127 if kind == "int8" else 0, most + 1, (48, 96), generator=draw).float()
    codes[::3] = most
    codes[1::3] = -127 if kind == "int8" else 0
    codes[:, [0, 40, 70]] = most
    codes[:, [1, 41, 71]] = -127 if kind == "int8" else 0
    weight = CODES[kind].of(codes if kind == "int8" else codes[2::3], torch.float32)
    x = torch.randint(-127, 128, (15, 96), generator=draw).float()
    x[:, ::BLOCK] = 127
    x[0], x[1] = 127, -127
    expected = x.double() @ weight.whole().double().t()
    for instructions in INSTRUCTIONS:
        assert torch.equal(product(instructions, weight, x).double(), expected)


@compiles
@pytest.mark.parametrize("instructions", INSTRUCTIONS)
@pytest.mark.parametrize("code", [Int8, Int4])
def test_what_is_not_finite_stays_so_in_its_row(instructions, code):
    weight = code.of(torch.randn(20, 64, generator=torch.Generator().manual_seed(0)), torch.float32)
    x = torch.ones(4, 64)
    x[0, 3], x[1, 40], x[2] = float("nan"), float("inf"), 0
    found = product(instructions, weight, x)
    assert not found[:2].isfinite().any()
    assert found[2].eq(0).all() and found[3].isfinite().all()


def tiny(kind: str) -> torch.nn.Module:
    model = tiny_llama()
    quantizing.quantize(model, kind, "float32", "cpu")
    return model


@compiles
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_decoded_token_does_not_depend_on_the_others(kind):
    bank, draw = Bank(tiny(kind)), torch.Generator().manual_seed(0)
    compiled = compiled_of(bank)
    slots = [-1, *(bank.add(random_adapter(bank, draw, rank, True)) for rank in (4, 9))]
    chosen = (slots * 7)[:19]
    plan, entering = step_of(bank, chosen, torch.Generator().manual_seed(1))
    assert compiled.suits(plan)
    with torch.inference_mode():
        together = compiled.run(entering, plan.positions, plan)
        logits = bank.logits(together, chosen)
        for row, slot in enumerate(chosen):
            one = DecodePlan(plan.cache, Slots([slot]), [row])
            alone = compiled.run(entering[row : row + 1], one.positions, one)
            assert torch.equal(alone[0], together[row])
            assert torch.equal(bank.logits(alone, [slot])[0], logits[row])


@compiles
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_codes_that_are_held_once_more_give_the_same_numbers(kind, monkeypatch):
    bank, draw = Bank(tiny(kind)), torch.Generator().manual_seed(0)
    compiled = compiled_of(bank)
    slots = [-1, bank.add(random_adapter(bank, draw, 4, True))] * 3

    def computed() -> torch.Tensor:
        plan, entering = step_of(bank, slots, torch.Generator().manual_seed(1))
        with torch.inference_mode():
            return bank.logits(compiled.run(entering, plan.positions, plan), slots)

    before = computed()
    size = integers.layable_bytes(bank)
    monkeypatch.setattr(integers, "SPARE", 1 << 60)  # no machine has as much memory
    compiled.lay()
    assert size > 0 and integers.layable_bytes(bank) == size
    monkeypatch.undo()
    compiled.lay()
    assert integers.layable_bytes(bank) == 0
    assert all(w.panels for layer in compiled._layers for w in layer.weights)
    assert torch.equal(computed(), before)


@compiles
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_prefill_gives_what_decoding_gives(kind):
    """Log-probabilities of an answer, as it was drawn and as it is read."""
    engine = engine_of(tiny(kind), ("lora",))
    engine.bank.compiled = compiled_of(engine.bank)
    prompt = text(3, 21)
    request = asked("lora", prompt, 12, temperature=1.0, seed=1)
    (answer,) = engine.generate([replace(request, logprobs=0)])
    with torch.inference_mode():
        bank, slot = engine.bank, max(engine.bank.adapters)
        trie = bank.trie([Sequence((*prompt, *answer.ids), slot=slot)])
        row = torch.from_numpy(trie.rows[0])
        hidden = bank.forward(trie)[row]
        read = bank.logits(hidden, [slot] * len(hidden)).log_softmax(-1)[len(prompt) - 1 : -1]
        read = read.gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
    drawn = torch.tensor([token.logprob for token in answer.tokens])
    assert torch.allclose(drawn, read, atol=0.02)


@compiles
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_only_inference_multiplies_codes(kind, monkeypatch):
    model = tiny(kind)
    weight = model.model.layers[0].mlp.up_proj.weight
    x = torch.randn(5, weight.shape[1], generator=torch.Generator().manual_seed(0))
    exact = weight.onto_rows(x)
    bank = Bank(model)
    integers.attach(bank, min_numbers=0)
    linear = torch.nn.functional.linear
    with torch.no_grad():
        assert torch.equal(linear(x, weight), exact)
    learnt = x.clone().requires_grad_(True)
    linear(learnt, weight).sum().backward()
    assert torch.allclose(learnt.grad, weight.whole().sum(0).expand_as(x), atol=1e-5)
    again = copy.deepcopy(model)
    with torch.inference_mode():
        found = linear(x, weight)
        here = os.environ.get(compiler.CAPABILITY, "")  # the bits are those of these instructions
        assert torch.equal(found, product(here, weight, x)) and not torch.equal(found, exact)
        assert torch.equal(linear(x, again.model.layers[0].mlp.up_proj.weight), found)
        bank.close()
        assert torch.equal(linear(x, weight), exact)
        monkeypatch.setenv(compiler.SWITCH, "0")
        assert integers.attach(Bank(model), min_numbers=0) is not None
        assert torch.equal(linear(x, weight), exact)


@compiles
def test_what_is_drawn_for_a_training_is_computed_as_it_is_trained():
    bank = Bank(tiny("int8"))
    integers.attach(bank, min_numbers=0)
    weight = bank.model.model.layers[0].mlp.up_proj.weight
    x = torch.randn(5, weight.shape[1], generator=torch.Generator().manual_seed(0))
    exact, linear = weight.onto_rows(x), torch.nn.functional.linear
    with torch.inference_mode():
        assert not torch.equal(linear(x, weight), exact)
        bank.compute_as_in_training()
        assert torch.equal(linear(x, weight), exact) and bank.compiled is None


@compiles
def test_the_self_check_multiplies_no_coded_inputs(monkeypatch):
    """An engine prepares within inference mode, where rounding flips codes that are all but equal."""
    bank, run, coded = Bank(tiny("int8")), LlamaInference.run, []
    integers.attach(bank, min_numbers=0)
    assert bank.inference is not None

    def seen(self, *arguments, **more):
        coded.append(torch.is_inference_mode_enabled())
        return run(self, *arguments, **more)

    monkeypatch.setattr(LlamaInference, "run", seen)
    with torch.inference_mode():
        bank.prepare(Packing(rows=4), decoding=True)
    assert coded and not any(coded) and bank.inference is not None
