"""A trie gives what padded batches give: losses, gradients, and adapters side by side."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.forward import attention, block_attention
from rung.forward.bank import Bank
from rung.forward.loss import cross_entropy
from rung.forward.trie import Sequence
from tests.models import FAMILIES, VOCABULARY, tiny_adapter, tiny_model

KINDS = ("prompt_tuning", "prefix_tuning", "lora", "last_layers", "full")
quick = settings(max_examples=15, deadline=None)


@functools.cache
def bank_of(family: str) -> Bank:
    return Bank(tiny_model(family))


@st.composite
def batches(draw, slots=(-1,)):
    """Sequences that begin alike: cuts of two long ones, each with its own ending."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    stems = torch.randint(3, VOCABULARY, (2, 24), generator=generator).tolist()
    batch = []
    for _ in range(draw(st.integers(1, 6))):
        stem = stems[draw(st.integers(0, 1))][: draw(st.integers(0, 24))]
        ending = torch.randint(3, VOCABULARY, (draw(st.integers(2, 9)),), generator=generator).tolist()
        ids = tuple(stem + ending)
        supervised = tuple([False] * (len(ids) // 2) + [True] * (len(ids) - len(ids) // 2))
        batch.append(Sequence(ids, supervised, draw(st.sampled_from(slots))))
    return batch


def padded_reference(model, batch):
    """Mean loss and the gradient of every parameter, by transformers alone on a padded batch."""
    model.set_attn_implementation("eager")
    width = max(len(s.ids) for s in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, s in enumerate(batch):
        ids[i, : len(s.ids)] = torch.tensor(s.ids)
        mask[i, : len(s.ids)] = 1
        labels[i, : len(s.ids)] = torch.where(torch.tensor(s.supervised), torch.tensor(s.ids), -100)
    model.requires_grad_(True)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100
    )
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    model.requires_grad_(False)
    return float(loss.detach()), dict(zip(named, gradients, strict=True))


def ours(bank, batch, adapter):
    slot = bank.add(adapter.trainable())
    try:
        trie = bank.trie([Sequence(s.ids, s.supervised, slot) for s in batch], prune=True)
        loss, _ = cross_entropy(bank, trie, bank.forward(trie), slot)
        parameters = adapter.parameters()
        mean = loss / float(trie.weight.sum())
        gradients = torch.autograd.grad(mean, list(parameters.values()), allow_unused=True)
        return float(mean.detach()), dict(zip(parameters, gradients, strict=True))
    finally:
        bank.remove(slot)


def close(a, b, tolerance=1e-5):
    if a is None or b is None:
        other = b if a is None else a
        return other is None or float(other.abs().max()) == 0
    scale = max(1.0, float(b.abs().max()))
    return float((a - b).abs().max()) <= tolerance * scale


@pytest.mark.parametrize("family", FAMILIES)
@quick
@given(batch=batches())
def test_loss_and_every_gradient_equal_the_padded_batch(family, batch):
    bank = bank_of(family)
    full = tiny_adapter(bank, "full")
    for name, tensor in full.weights.items():  # undo the shift: the base itself is the reference
        tensor.data.copy_(bank.model.get_parameter(name))
    loss, gradients = ours(bank, batch, full)
    reference_loss, reference = padded_reference(tiny_model(family), batch)
    assert loss == pytest.approx(reference_loss, abs=1e-5)
    for name, gradient in reference.items():
        assert close(gradients[f"weights.{name}"], gradient), name


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2", "bloom"])
@pytest.mark.parametrize("method", KINDS)
def test_an_adapter_trains_alike_on_trie_and_padded_rows(family, method):
    batch = _fixed_batch()
    on_trie = ours(bank_of(family), batch, tiny_adapter(bank_of(family), method))
    by_rows = Bank(tiny_model(family))
    by_rows.model.set_attn_implementation("eager")
    by_rows.why_not = "padded rows are wanted here"
    padded = ours(by_rows, batch, tiny_adapter(by_rows, method))
    assert on_trie[0] == pytest.approx(padded[0], abs=1e-5)
    for name in on_trie[1]:
        assert close(on_trie[1][name], padded[1][name], 2e-5), name


def _fixed_batch():
    stem = tuple(range(10, 30))
    endings = [(40, 41, 42), (50, 51, 52, 53, 54), (40, 60)]
    whole = [stem + e for e in endings] + [(70, 71, 72, 73)]
    return [Sequence(ids, tuple(i > 1 for i in range(len(ids)))) for ids in whole]


@functools.cache
def mixed_bank(family: str) -> Bank:
    bank = Bank(tiny_model(family))
    for seed, kind in enumerate(("lora", *KINDS, "prefix_tuning")):
        bank.add(tiny_adapter(bank, kind, seed))
    return bank


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bloom"])
@quick
@given(batch=batches(slots=(-1, 0, 1, 2, 3, 4, 5, 6)))
def test_a_mixed_batch_answers_like_each_adapter_alone(family, batch):
    bank = mixed_bank(family)
    with torch.no_grad():
        trie = bank.trie(batch)
        hidden = bank.forward(trie)
        for sequence, rows in zip(batch, trie.rows, strict=True):
            alone = bank.trie([sequence])
            reference = bank.logits(bank.forward(alone)[alone.rows[0]], [sequence.slot] * len(rows))
            mixed = bank.logits(hidden[rows], [sequence.slot] * len(rows))
            assert close(mixed, reference, 2e-5)
        slots = trie.slots.tolist()
        together = bank.logits(hidden, slots)
        for row in range(0, len(slots), 5):
            assert close(together[row], bank.logits(hidden[row][None], [slots[row]])[0])


@quick
@given(batch=batches(slots=(-1, 1, 2)), block=st.integers(1, 9))
def test_blocks_may_be_cut_anywhere(batch, block):
    bank = mixed_bank("mistral")
    with torch.no_grad():
        whole = bank.forward(bank.trie(batch))
        kept, block_attention.BLOCK_TOKENS = block_attention.BLOCK_TOKENS, block
        try:
            cut = bank.forward(bank.trie(batch))
        finally:
            block_attention.BLOCK_TOKENS = kept
    assert close(cut, whole)


@pytest.mark.parametrize("window", [None, 5])
def test_flex_attention_takes_the_same_rule(window):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    bank = mixed_bank("llama")
    trie = bank.trie(s for s in [*_fixed_batch(), Sequence((3, 4, 5, 6), slot=2)])
    plan = attention.TriePlan(trie, bank.front(trie))
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, len(trie), 8, generator=generator)
    k, v = (torch.randn(1, 2, len(trie), 8, generator=generator) for _ in range(2))
    blocks = plan.attend(1, q, k, v, 0.3, window)
    k, v = plan._with_front(1, k, 0), plan._with_front(1, v, 1)
    mask = create_block_mask(plan.rule("cpu", window), None, None, q.shape[2], k.shape[2], device="cpu")
    flex = flex_attention(q, k, v, block_mask=mask, scale=0.3, enable_gqa=True)
    assert close(blocks, flex.transpose(1, 2))


@pytest.mark.gpu
@pytest.mark.parametrize("method", KINDS)
def test_cuda_carries_the_trie_by_flex_attention(method):
    batch = _fixed_batch()
    bank = Bank(tiny_model("llama").cuda())
    assert bank.carries_trie
    slot = bank.add(tiny_adapter(bank, method))
    trie = bank.trie([Sequence(s.ids, s.supervised, slot) for s in batch])
    with torch.no_grad():
        flex = bank.forward(trie)
        bank.model.set_attn_implementation("eager")
        bank.why_not = "padded rows are wanted here"
        assert close(flex, bank.forward(trie), 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_base_cannot_carry_is_said(family):
    bank = bank_of(family)
    if family == "bloom":
        assert not bank.carries_trie
        assert "attention" in bank.why_not
    else:
        assert bank.carries_trie, bank.why_not


def test_removing_adapters_gives_the_base_back():
    bank = Bank(tiny_model())
    trie = bank.trie(_fixed_batch())
    with torch.no_grad():
        before = bank.forward(trie)
        slots = [bank.add(tiny_adapter(bank, kind)) for kind in KINDS]
        assert bank._seams
        for slot in slots:
            bank.remove(slot)
        assert not bank._seams
        assert torch.equal(bank.forward(trie), before)


def test_an_adapter_for_another_base_is_refused_and_leaves_no_trace():
    from rung.errors import ArtefactError
    from rung.forward.adapter import Adapter

    bank = Bank(tiny_model())
    for wrong in (
        Adapter(embeddings=torch.zeros(2, 31)),
        Adapter(weights={"model.norm.weight": torch.zeros(31)}),
        Adapter(linear={"model.layers.9.q": None}),
    ):
        with pytest.raises(ArtefactError):
            bank.add(wrong)
    assert not bank.adapters and not bank._seams


def test_a_second_bank_on_a_model_is_refused_until_the_first_is_closed():
    from rung.errors import ConfigError

    model = tiny_model()
    own = model.config._attn_implementation
    with torch.no_grad():
        before = model(torch.tensor([[5, 6, 7]])).logits
    first = Bank(model)
    slot = first.add(tiny_adapter(first, "ia3").trainable())
    trie = first.trie([Sequence((5, 6, 7), slot=slot)])
    first.forward(trie).sum().backward()  # layers train in two steps from here on
    with pytest.raises(ConfigError, match="close"):
        Bank(model)
    with torch.no_grad():
        adapted = first.forward(trie)  # the first one still computes with its adapter
    first.close()
    assert model.config._attn_implementation == own
    assert not any("forward" in vars(module) for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model(torch.tensor([[5, 6, 7]])).logits, before)
    second = Bank(model)
    with torch.no_grad():
        plain = second.forward(second.trie([Sequence((5, 6, 7))]))
    assert not close(adapted, plain)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_an_adapter_in_training_is_never_answered_from_an_old_copy(family):
    """Passes without gradients between steps, as in validation, see the weights of now."""
    bank = Bank(tiny_model(family))
    adapter = tiny_adapter(bank, "lora").trainable()
    slot = bank.add(adapter)
    trie = bank.trie([Sequence((5, 6, 7, 8), slot=slot)])
    with torch.no_grad():
        first = bank.forward(trie)
        for tensor in adapter.parameters().values():
            tensor += 0.1
        found = bank.forward(trie)
    assert not close(found, first)
    assert close(found, bank.forward(trie).detach())
