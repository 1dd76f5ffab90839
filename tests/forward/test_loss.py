"""The chunked linear cross-entropy equals torch's on full logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.forward import loss as module
from rung.forward.backbone import Head


class OneHead:
    """A bank that has nothing but a head."""

    def __init__(self, head):
        self._head = head

    def head(self, slot):
        return self._head


class Edges:
    def __init__(self, source, target, weight):
        self.source, self.target, self.weight = source, target, weight


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 12),
    edges=st.integers(1, 20),
    chunk=st.sampled_from([1, 40, 1 << 20]),
    bias=st.booleans(),
    softcap=st.sampled_from([None, 2.0]),
    scale=st.sampled_from([1.0, 0.25]),
)
def test_loss_and_gradients(seed, rows, edges, chunk, bias, softcap, scale):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 6, generator=g, requires_grad=True)
    weight = torch.randn(17, 6, generator=g, requires_grad=True)
    shift = torch.randn(17, generator=g, requires_grad=True) if bias else None
    source = torch.randint(rows, (edges,), generator=g).sort().values
    target = torch.randint(17, (edges,), generator=g)
    w = torch.rand(edges, generator=g)
    leaves = [hidden, weight] + ([shift] if bias else [])
    kept, module.CHUNK = module.CHUNK, chunk
    try:
        head = Head(weight, shift, softcap, scale)
        edges = Edges(source, target, w)
        total, right = module.cross_entropy(OneHead(head), edges, hidden, 0, accuracy=True)
        ours = torch.autograd.grad(total * 3, leaves)
    finally:
        module.CHUNK = kept
    logits = head.logits(hidden)[source]
    picked = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    expected = torch.autograd.grad((w * picked).sum() * 3, leaves)
    assert float(total.detach()) == pytest.approx(float((w * picked).sum().detach()), rel=1e-5)
    assert right == pytest.approx(float((w * (logits.argmax(1) == target)).sum()), rel=1e-5)
    for a, b in zip(ours, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5, rtol=1e-4)


def test_full_logits_are_never_held():
    """A chunk is the largest thing with a vocabulary's width."""
    hidden = torch.randn(600, 4, requires_grad=True)
    weight = torch.randn(50_000, 4)
    source = torch.arange(600)
    seen = []
    original = torch.nn.functional.linear

    def watched(*args, **kwargs):
        out = original(*args, **kwargs)
        seen.append(out.numel())
        return out

    torch.nn.functional.linear = watched
    try:
        edges = Edges(source, source % 7, torch.ones(600))
        module.cross_entropy(OneHead(Head(weight, None, None, 1.0)), edges, hidden, 0)[0].backward()
    finally:
        torch.nn.functional.linear = original
    assert len(seen) > 1 and max(seen) <= module.CHUNK
