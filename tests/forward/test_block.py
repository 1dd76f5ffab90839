"""Layers in two steps of autograd give what the base's own layers give, gradients too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings

from rung.forward.bank import Bank
from rung.forward.llama import training
from rung.forward.lora import LoraOp
from rung.forward.trie import Sequence
from tests.forward.test_bank import batches, close
from tests.models import FAMILIES, tiny_adapter, tiny_model

LIKE_LLAMA = ("llama", "qwen2")


def pass_both_ways(bank, adapter, batch, calls):
    """Hidden states, and the gradient of every parameter, through the bank as it stands."""
    slot = bank.add(adapter.trainable())
    try:
        trie = bank.trie([Sequence(s.ids, s.supervised, slot) for s in batch])
        hidden = bank.forward(trie)
        target = torch.sin(torch.arange(hidden.numel()).float()).view_as(hidden)
        parameters = adapter.parameters()
        loss = (hidden * target).mean()
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        calls.append(bank._training)
        return hidden.detach(), dict(zip(parameters, gradients, strict=True))
    finally:
        bank.remove(slot)


def assert_alike(family, method, batch, **config):
    calls: list[bool] = []
    ours, own = Bank(tiny_model(family)), Bank(tiny_model(family))
    own._training = False
    adapter = tiny_adapter(ours, method, **config)
    hidden, gradients = pass_both_ways(ours, adapter, batch, calls)
    reference, expected = pass_both_ways(own, adapter, batch, calls)
    assert calls == [True, False]
    assert close(hidden, reference)
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        assert scale > 0, name
        assert float((gradients[name] - gradient).abs().max()) <= 1e-4 * scale + 1e-9, name


@pytest.mark.parametrize("family", LIKE_LLAMA)
@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("lora", {}),
        ("lora", {"targets": ["q_proj", "v_proj"], "rank": 3}),
        ("lora", {"targets": ["mlp"], "rslora": True}),
        ("lora", {"targets": ["o_proj", "up_proj"]}),
        ("prompt_tuning", {}),
        ("prefix_tuning", {}),
    ],
)
@settings(max_examples=8, deadline=None)
@given(batch=batches())
def test_hidden_states_and_gradients_equal_the_bases_own(family, method, config, batch):
    assert_alike(family, method, batch, **config)


def counted(bank, monkeypatch):
    calls = []
    before = training._Before.apply
    monkeypatch.setattr(training._Before, "apply", lambda *a: calls.append(1) or before(*a))
    return calls


def test_every_layer_of_a_training_pass_is_computed_so(monkeypatch):
    bank = Bank(tiny_model())
    adapter = tiny_adapter(bank, "lora").trainable()
    slot = bank.add(adapter)
    trie = bank.trie([Sequence((5, 6, 7), slot=slot)])
    bank.forward(trie)
    calls = counted(bank, monkeypatch)
    bank.forward(trie)
    assert len(calls) == bank.config.num_hidden_layers
    with torch.no_grad():
        bank.forward(trie)
    assert len(calls) == bank.config.num_hidden_layers


@pytest.mark.parametrize("method", ["ia3", "full", "last_layers"])
def test_layers_that_an_adapter_changes_otherwise_stay_the_bases_own(method, monkeypatch):
    bank = Bank(tiny_model())
    config = {"layers": 1} if method == "last_layers" else {}
    slot = bank.add(tiny_adapter(bank, method, **config).trainable())
    trie = bank.trie([Sequence((5, 6, 7), slot=slot)])
    bank.forward(trie)
    calls = counted(bank, monkeypatch)
    bank.forward(trie)
    changed = {name.split(".layers.")[1][0] for name in bank._seams if ".layers." in name}
    assert len(calls) == bank.config.num_hidden_layers - len(changed)


def test_an_operation_that_is_no_plain_lora_is_left_to_its_own_code():
    class Louder(LoraOp):
        def project(self, x, module):
            return None

        def after(self, x, y):
            return 2 * y

    bank = Bank(tiny_model())
    plain = tiny_adapter(bank, "lora")
    ops = {n: Louder(op.a, op.b, op.scale) for n, op in plain.linear.items()}
    plain.linear = ops
    slot = bank.add(plain.trainable())
    trie = bank.trie([Sequence((5, 6, 7), slot=slot)])
    trained = bank.forward(trie).detach()
    with torch.no_grad():
        assert close(trained, bank.forward(trie))


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in LIKE_LLAMA])
def test_other_bases_keep_their_layers(family):
    bank = Bank(tiny_model(family))
    bank.forward(bank.trie([Sequence((5, 6, 7))]))
    assert not bank._training


def test_a_base_that_only_looks_alike_keeps_its_layers(monkeypatch):
    bank = Bank(tiny_model())
    rotate = training._rotate
    monkeypatch.setattr(training, "_rotate", lambda x, c, s, back=False: rotate(x, c, -s, back))
    bank.forward(bank.trie([Sequence((5, 6, 7))]))
    assert bank._training is False
    assert not any("forward" in bank.modules[name].__dict__ for name in bank.layer_names)


def test_half_precision_is_close():
    batch = [Sequence((5, 6, 7, 8, 9)), Sequence((5, 6, 11, 12))]
    ours, own = Bank(tiny_model().bfloat16()), Bank(tiny_model().bfloat16())
    own._training = False
    adapter = tiny_adapter(ours, "lora")
    calls: list[bool] = []
    hidden, gradients = pass_both_ways(ours, adapter, batch, calls)
    reference, expected = pass_both_ways(own, adapter, batch, calls)
    assert calls == [True, False]
    assert close(hidden.float(), reference.float(), 0.05)
    for name, gradient in expected.items():
        assert gradients[name].dtype == gradient.dtype == torch.float32
        apart = float((gradients[name] - gradient).norm() / gradient.norm())
        assert apart < 0.1, name
