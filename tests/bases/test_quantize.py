"""Quantised bases: close to the original, exact to their own codes, small, and usable as any other."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from rung import bases
from rung.bases import quantize as quantizing
from rung.bases.quantized import Int4, Int8, Nf4, Quantized
from rung.errors import ConfigError
from rung.forward.bank import Bank
from rung.forward.loss import cross_entropy
from rung.forward.trie import Sequence
from tests.models import FAMILIES, tiny_adapter, tiny_model

KINDS = ("int8", "int4", "nf4")
SCRATCH = "scratch:layers=2,width=64,heads=2,vocab=300,context=256"


def coded(family: str, kind: str, dtype: str = "float32") -> tuple[torch.nn.Module, torch.nn.Module]:
    """A tiny model in codes, and the plain model that the codes stand for."""
    model = tiny_model(family)
    plain = copy.deepcopy(model)
    quantizing.quantize(model, kind, dtype, "cpu")
    with torch.no_grad():
        for own, code in zip(plain.parameters(), model.parameters(), strict=True):
            own.copy_(code.whole() if isinstance(code, Quantized) else code)
    return model, plain.to(getattr(torch, dtype))


def gradients(model: torch.nn.Module, method: str = "lora") -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Loss of a small trie, and its gradient by every parameter of an adapter."""
    bank = Bank(model)
    adapter = tiny_adapter(bank, method).trainable()
    slot = bank.add(adapter)
    rows = [((5, 6, 7, 8, 9, 10), 3), ((5, 6, 7, 11, 12), 2)]
    trie = bank.trie([Sequence(ids, (False,) * 3 + (True,) * n, slot) for ids, n in rows])
    loss, _ = cross_entropy(bank, trie, bank.forward(trie), slot)
    return loss, list(torch.autograd.grad(loss, list(adapter.parameters().values())))


@pytest.mark.parametrize(("code", "most"), [(Int8, 0.01), (Int4, 0.1), (Nf4, 0.12)])
@pytest.mark.parametrize("shape", [(192, 64), (33, 20), (70, 48), (2200, 600)])
def test_codes_stay_near_the_weight(code, most, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.05
    coded = code.of(weight, torch.float32)
    assert coded.shape == weight.shape and coded.dtype == torch.float32
    whole = coded.whole()
    assert float((whole - weight).norm() / weight.norm()) < most
    ids = torch.tensor([[0, 5], [19, 5]])
    assert torch.allclose(coded.take(ids), whole[ids])
    x, y = torch.randn(7, shape[1]), torch.randn(7, shape[0])
    assert torch.allclose(coded.onto_rows(x), x @ whole.t(), atol=1e-4)
    assert torch.allclose(coded.onto_columns(y), y @ whole, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_are_those_of_the_plain_weights(family, kind):
    model, plain = coded(family, kind)
    ours, theirs = gradients(model), gradients(plain)
    assert torch.allclose(ours[0], theirs[0], rtol=1e-5)
    for a, b in zip(ours[1], theirs[1], strict=True):
        assert float((a - b).abs().max()) <= 1e-4 * float(b.abs().max().clamp(min=1e-6))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning", "ia3"])
def test_other_adapters_train_on_it_too(method, kind):
    model, plain = coded("llama", kind)
    for a, b in zip(gradients(model, method)[1], gradients(plain, method)[1], strict=True):
        assert float((a - b).abs().max()) <= 1e-4 * float(b.abs().max().clamp(min=1e-6))


def test_half_precision_computes_in_half_precision():
    model, plain = coded("llama", "int8", "bfloat16")
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    ours, theirs = gradients(model), gradients(plain)
    assert torch.allclose(ours[0], theirs[0], rtol=0.02)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_nothing_is_turned_back_as_a_whole(family, monkeypatch):
    """The memory that is saved would be lost for a moment, and the time with it."""
    model, _ = coded(family, "int8")
    calls = []
    monkeypatch.setattr(Int8, "whole", lambda self, dtype=None: calls.append(self) or 1 / 0)
    gradients(copy.deepcopy(model))
    with torch.inference_mode():
        bank = Bank(model)
        bank.logits(bank.forward(bank.trie([Sequence((5, 6, 7))])), [-1] * 3)
    assert not calls


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_all_projections_and_tables_are_coded(family):
    model, _ = coded(family, "nf4")
    plain = {n for n, p in model.named_parameters() if not isinstance(p, Quantized)}
    assert all(p.dim() == 1 for n, p in model.named_parameters() if n in plain)
    assert isinstance(model.get_input_embeddings().weight, Int8)
    if model.config.tie_word_embeddings:
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_weight_that_others_ask_for_is_turned_back():
    from rung.methods import merging

    model, plain = coded("llama", "int8")
    merged = []
    for one in (model, plain):
        bank = Bank(one)
        merged.append(merging.merged(tiny_adapter(bank, "lora"), bank))
    for name, weight in merged[1].items():
        assert type(merged[0][name]) is torch.Tensor
        assert torch.allclose(merged[0][name], weight, atol=1e-5)


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.3), ("nf4", 0.22)])
def test_a_loaded_base_takes_little_memory(kind, most):
    info = bases.resolve(SCRATCH)
    base = bases.load(info, quantize=kind)
    held, plain = bases.memory(base.model)
    assert base.quantize == kind and held < most * plain
    assert bases.memory(bases.load(info).model) == (plain, plain)
    # What was coded is held by nothing else: neither as a plain copy nor by the mapped file.
    held_too = sum(
        t.untyped_storage().nbytes()
        for p in base.model.parameters()
        for t in (p.held if isinstance(p, Quantized) else (p.data,))
    )
    assert held_too <= held * 1.01 + 4096


def test_a_copy_of_a_model_keeps_the_codes():
    model, _ = coded("llama", "int8")
    again = copy.deepcopy(model)
    first, second = model.lm_head.weight, again.lm_head.weight
    assert isinstance(second, Int8) and torch.equal(second.held[0], first.held[0])


def test_faults_are_named(monkeypatch):
    with pytest.raises(ConfigError, match="did you mean 'int8'"):
        bases.load(bases.resolve(SCRATCH), quantize="in8")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="rung.quantize.*--quantize int8"):
        quantizing.check("nf4")
    quantizing.check("int8")


@pytest.fixture
def quotes(tmp_path: Path) -> Path:
    path = tmp_path / "quotes.jsonl"
    rows = [{"prompt": f"Coach me, {i}.", "completion": f"Try {i} times!"} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def plan(name, data, **settings):
    from rung.train.plan import Plan

    fast = {"base": SCRATCH, "dtype": "float32", "device": "cpu", "steps": 2, "quantize": "int8"}
    return Plan.of(name, {**fast, "data": str(data), **settings})


@pytest.mark.parametrize("kind", KINDS)
def test_a_tuning_keeps_an_ordinary_adapter(rung_home, quotes, kind):
    from rung.artefacts import folders
    from rung.methods import artefact
    from rung.models import by_base, load_engine
    from rung.train.job import tune

    outcome = tune(plan("coach", quotes, quantize=kind))
    assert outcome.cost["base_bytes"] < 0.3 * outcome.cost["base_bytes_float32"]
    folder = folders.model_folder("coach")
    assert artefact.about(folder)["settings"]["quantize"] == kind
    plain = bases.load(bases.resolve(artefact.about(folder)["base"]["spec"]))
    adapter, _ = artefact.load(folder, Bank(plain.model))
    assert adapter.size == outcome.cost["parameters"]
    # Measured and served on what it was trained on, unless told otherwise.
    assert by_base(["coach", SCRATCH]) == [["coach"], [SCRATCH]]
    for asked, coded in ((None, True), ("none", False)):
        engine = load_engine(["coach"], quantize=asked)
        weight = engine.bank.model.get_input_embeddings().weight
        assert isinstance(weight, Quantized) is coded


def test_peft_reads_what_was_trained_on_codes(rung_home, quotes):
    peft = pytest.importorskip("peft")
    from rung.artefacts import folders
    from rung.methods import artefact
    from rung.train.job import tune

    tune(plan("coach", quotes))
    folder = folders.model_folder("coach")
    info = bases.resolve(artefact.about(folder)["base"]["spec"])
    ids = (5, 6, 7, 8)
    bank = Bank(bases.load(info).model)
    slot = bank.add(artefact.load(folder, bank)[0])
    with torch.no_grad():
        ours = bank.logits(bank.forward(bank.trie([Sequence(ids, slot=slot)])), [slot] * 4)
        theirs = peft.PeftModel.from_pretrained(bases.load(info).model, folder)(
            torch.tensor([ids])
        ).logits
    assert torch.allclose(ours, theirs[0], atol=1e-4)


@pytest.mark.parametrize("method", ["full", "last_layers"])
def test_methods_that_train_the_weights_themselves_refuse(method, quotes):
    with pytest.raises(ConfigError, match=f"--quantize int8 does not go with {method}"):
        plan("coach", quotes, method=method)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_what_the_cpu_gives(kind):
    model = tiny_model("llama")
    outs = []
    for device in ("cpu", "cuda"):
        one = copy.deepcopy(model)
        quantizing.quantize(one, kind, "float32", device)
        with torch.no_grad():
            outs.append(one(torch.tensor([[5, 6, 7, 8]], device=device)).logits.cpu())
    assert torch.allclose(outs[0], outs[1], atol=1e-3)


@pytest.mark.wheel
@pytest.mark.parametrize(
    ("kind", "most", "worse"),
    [("int8", 0.30, 0.02), pytest.param("nf4", 0.20, 0.35, marks=pytest.mark.slow)],
)
def test_the_default_base_loses_little(kind, most, worse):
    """Loss on plain text, in nats a token, beside that of float32."""
    info = bases.resolve(bases.DEFAULT)
    text = (Path(__file__).resolve().parent.parent.parent / "README.md").read_text()
    losses = []
    for one in ("none", kind):
        base = bases.load(info, quantize=one)
        ids = tuple(base.tokenizer.encode(text)[:256])
        bank = Bank(base.model)
        assert bank.carries_trie
        trie = bank.trie([Sequence(ids, (True,) * len(ids))])
        with torch.no_grad():
            loss, _ = cross_entropy(bank, trie, bank.forward(trie), -1)
        losses.append(float(loss) / float(trie.weight.sum()))
        held, plain = bases.memory(base.model)
    assert held / plain < most
    assert abs(losses[1] - losses[0]) < worse, losses
