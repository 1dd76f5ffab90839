"""Any loss of the log-probabilities has the gradient of the padded batch, in double precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.forward import loss as loss_module
from rung.forward.bank import Bank
from rung.forward.policy import Policy
from rung.forward.trie import Sequence
from tests.models import VOCABULARY, tiny_adapter, tiny_model


def double(family: str, method: str):
    """A base and an adapter in double precision, so that differences are errors and not rounding."""
    torch.manual_seed(0)
    bank = Bank(tiny_model(family).double())
    adapter = tiny_adapter(bank, method)
    for name, tensor in adapter.parameters().items():
        tensor.data = tensor.data.double() + 0.05 * torch.randn(tensor.shape, dtype=torch.float64)
        assert tensor.dtype == torch.float64, name
    return bank, adapter


@st.composite
def batches(draw):
    """Sequences that share beginnings and whole replies, each with some supervised tokens."""
    stem = tuple(draw(st.lists(st.integers(3, 8), min_size=1, max_size=5)))
    batch = []
    for _ in range(draw(st.integers(1, 5))):
        ids = (*stem, *draw(st.lists(st.integers(3, 5), min_size=1, max_size=5)))
        mask = (False, *draw(st.lists(st.booleans(), min_size=len(ids) - 1, max_size=len(ids) - 1)))
        batch.append(Sequence(ids, mask))
    if not any(s.supervised.any() for s in batch):
        batch[0] = Sequence(batch[0].ids, (False, *[True] * (len(batch[0]) - 1)))
    return batch


def padded_logprobs(bank, slot, batch):
    """For each sequence the log-probabilities of its supervised tokens, each row computed alone."""
    found = []
    for s in batch:
        trie = bank.trie([s.at(slot)])
        hidden = bank.forward(trie)[torch.from_numpy(trie.rows[0])]
        logits = bank.head(slot).logits(hidden)
        at = torch.from_numpy(s.supervised.nonzero()[0])
        picked = torch.log_softmax(logits[at - 1], -1)
        found.append(picked[torch.arange(len(at)), torch.from_numpy(s.ids)[at].long()])
    return found


def smooth(parts, seed):
    """A smooth function of the sequences' log-probabilities, with slopes of either sign."""
    g = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    for part in parts:
        if not len(part):
            continue
        slope = torch.randn(len(part), generator=g, dtype=torch.float64)
        total = total + torch.tanh(slope @ part) + torch.nn.functional.softplus(part.sum())
        total = total - 0.3 * (part.exp() * slope).sum()
    return total


@settings(max_examples=25, deadline=None)
@given(batches(), st.integers(0, 1000), st.sampled_from([1, 40, 1 << 20]))
@pytest.mark.parametrize(
    ("family", "method", "exact"),
    [
        ("gpt2", "lora", 1e-9),
        ("gpt2", "full", 1e-9),
        ("gpt2", "prompt_tuning", 1e-9),
        ("llama", "lora", 1e-4),  # its norms and rotations round to float32, whatever it is given
    ],
)
def test_the_gradient_of_any_smooth_loss(family, method, exact, batch, seed, chunk):
    bank, adapter = double(family, method)
    slot = bank.add(adapter)
    parameters = list(adapter.trainable().parameters().values())
    kept, loss_module.CHUNK = loss_module.CHUNK, chunk
    try:
        policy = Policy(bank, batch, slot)
        parts = policy.per_sequence()
        total = smooth(parts, seed)
        ours = torch.autograd.grad(total, parameters, allow_unused=True)
    finally:
        loss_module.CHUNK = kept
    own = torch.stack([p.sum() for p in parts])  # each sequence's, shared edges and all
    assert torch.allclose(policy.sums(), own, atol=1e-10)
    reference = padded_logprobs(bank, slot, batch)
    expected = smooth(reference, seed)
    theirs = torch.autograd.grad(expected, parameters, allow_unused=True)
    assert float(total.detach()) == pytest.approx(float(expected.detach()), abs=exact)
    for a, b in zip(ours, theirs, strict=True):
        if a is None or b is None:
            assert all(x is None or not x.any() for x in (a, b))
        else:
            assert torch.allclose(a, b, atol=exact, rtol=exact)


@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_soft_capped_and_biased_heads(family):
    bank, adapter = double(family, "lora")
    slot = bank.add(adapter)
    parameters = list(adapter.trainable().parameters().values())
    batch = [
        Sequence((5, 6, 7, 8), (False, True, True, True)),
        Sequence((5, 6, 9), (False, True, True)),
    ]
    total = smooth([p for p in [Policy(bank, batch, slot).logprobs()]], 3)
    ours = torch.autograd.grad(total, parameters)
    policy = Policy(bank, batch, slot)
    logits = bank.head(slot).logits(policy.hidden)[policy.trie.source]
    every = torch.log_softmax(logits, -1)[torch.arange(len(logits)), policy.trie.target]
    theirs = torch.autograd.grad(smooth([every], 3), parameters)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(ours, theirs, strict=True))


def test_cross_entropy_is_minus_the_log_probabilities():
    bank, adapter = double("llama", "lora")
    slot = bank.add(adapter)
    parameters = list(adapter.trainable().parameters().values())
    batch = [
        Sequence((5, 6, 7, 8), (False, True, True, True)),
        Sequence((5, 6, 7), (False, True, True)),
    ]
    policy = Policy(bank, batch, slot)
    total, correct = policy.cross_entropy(accuracy=True)
    assert 0 <= correct <= 5
    fused = torch.autograd.grad(total, parameters)
    plain = torch.autograd.grad(-Policy(bank, batch, slot).sums().sum(), parameters)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(fused, plain, strict=True))


def test_states_are_those_of_a_whole_pass():
    bank, adapter = double("llama", "lora")
    slot = bank.add(adapter)
    batch = [Sequence((5, 6, 7, 8)), Sequence((5, 6, 9))]
    found = Policy(bank, batch, slot, whole=True).states([-1, -1])
    for one, s in zip(found, batch, strict=True):
        alone = bank.forward(bank.trie([s.at(slot)]))[-1]
        assert torch.allclose(one, alone, atol=1e-10)
    with pytest.raises(ValueError, match="reads_states"):
        Policy(bank, batch, slot).states([0, 0])
    assert VOCABULARY > 9
