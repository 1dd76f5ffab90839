"""Attention in blocks gives what the visibility rule says, and so do its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.forward import block_attention, shared_prefix_attention
from rung.forward.attention import TriePlan
from rung.forward.trie import Sequence, Trie
from tests.forward.test_bank import batches


def reference(plan, q, k, v, scaling, window):
    """One dense softmax over the whole row, in float64."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
    rows = np.arange(q.shape[2])[:, None]
    seen = (plan.start <= rows) & (rows < plan.end)
    if window:
        seen &= plan.depth[plan.in_front :][:, None] - plan.depth < window
    scores = (q @ k.transpose(2, 3) * scaling).masked_fill(torch.from_numpy(~seen), float("-inf"))
    return (torch.softmax(scores, -1) @ v).transpose(1, 2)


def sizes(monkeypatch, **to):
    for name, value in to.items():
        monkeypatch.setattr(block_attention, name, value)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("front", [0, 3])
@pytest.mark.parametrize("dense", [0, 192])
@pytest.mark.parametrize("together", [0, 1 << 30])
@settings(max_examples=10, deadline=None)
@given(batch=batches(), block=st.integers(1, 20), seed=st.integers(0, 99))
def test_outputs_and_gradients_follow_the_rule(window, front, dense, together, batch, block, seed):
    with pytest.MonkeyPatch.context() as patch:
        sizes(patch, BLOCK_TOKENS=block, MAX_DENSE_KEYS=dense, CALL_SCORES=together)
        trie = Trie.build(batch, prefix={-1: front})
        generator = torch.Generator().manual_seed(seed)
        ahead = torch.randn(1, 2, front, 2, 8, generator=generator).double()
        plan = TriePlan(trie, {-1: ahead} if front else {})
        shapes = [(1, heads, len(trie), 8) for heads in (6, 2, 2)]
        q, k, v = (torch.randn(s, generator=generator).double().requires_grad_() for s in shapes)
        weights = torch.randn(1, len(trie), 6, 8, generator=generator).double()
        out = plan.attend(0, q, k, v, 0.3, window)
        whole = (plan._with_front(0, x, i) if front else x for i, x in enumerate((k, v)))
        expected = reference(plan, q, *whole, 0.3, window)
        assert torch.allclose(out, expected, atol=1e-10)
        ours = torch.autograd.grad((out * weights).sum(), (q, k, v))
        theirs = torch.autograd.grad((expected * weights).sum(), (q, k, v))
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, atol=1e-10)


def plan_of(lengths, stem=()):
    rows = [Sequence((*stem, *range(1000 * i, 1000 * i + n))) for i, n in enumerate(lengths, start=1)]
    return TriePlan(Trie.build(rows))


def calls(plan):
    return block_attention.together(plan.blocks)


def test_short_branches_behind_one_stem_are_few_calls_of_little_padding():
    plan = plan_of([20] * 40, stem=range(30))
    found = calls(plan)
    assert len(found) <= 3
    padded = sum(
        n * lq * lk for n, lq, lk in (c.size for c in found if isinstance(c, block_attention.Several))
    )
    assert padded < 0.15 * len(plan.slots.of_token) ** 2


def test_a_long_text_is_cut_into_longer_blocks_further_down():
    lengths = [b.length for b in plan_of([4000]).blocks]
    assert lengths[0] == block_attention.BLOCK_TOKENS
    assert max(lengths) == block_attention.MAX_BLOCK_TOKENS == lengths[-2]
    assert lengths[:-1] == sorted(lengths[:-1])


def test_texts_of_very_different_lengths_are_not_padded_to_each_other():
    for call in calls(plan_of([600, 10, 10, 10])):
        if isinstance(call, block_attention.Several):
            real = sum(b.length * b.width for b in call.blocks)
            count, length, width = call.size
            assert count * length * width <= real + block_attention.CALL_SCORES * (count - 1)


@settings(max_examples=30, deadline=None)
@given(batch=batches(), count=st.integers(1, 9), block=st.integers(1, 20), seed=st.integers(0, 99))
def test_what_all_see_in_front_is_met_apart_and_gives_the_same(batch, count, block, seed):
    with pytest.MonkeyPatch.context() as patch:
        sizes(patch, BLOCK_TOKENS=block)
        patch.setattr(shared_prefix_attention, "MIN_KEYS", 1)
        trie = Trie.build([Sequence(row.ids) for row in batch], prefix={-1: count})
        generator = torch.Generator().manual_seed(seed)
        ahead = torch.randn(1, 2, count, 2, 8, generator=generator).double()
        plan = TriePlan(trie, {-1: ahead})
        shapes = [(1, heads, len(trie), 8) for heads in (6, 2, 2)]
        q, k, v = (3 * torch.randn(s, generator=generator).double() for s in shapes)
        whole = (plan._with_front(0, x, i) for i, x in enumerate((k, v)))
        expected = reference(plan, q, *whole, 0.3, None)
        with torch.no_grad():
            patch.setattr(plan, "_with_front", None)  # not taken
            out = plan.attend(0, q, k, v, 0.3)
        assert torch.allclose(out, expected, atol=1e-10)


def test_one_prompt_alone_is_causal_without_a_mask():
    plan = plan_of([40])
    (call,), (mask,) = plan._calls(block_attention.Heads(2, 3), torch.float32, None)
    assert isinstance(call, block_attention.Alone)
    assert mask is None
