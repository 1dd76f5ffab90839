"""The trie says what its sequences say, once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.forward.attention import TriePlan
from rung.forward.trie import Sequence, Trie

tokens = st.lists(st.integers(0, 3), min_size=1, max_size=8).map(tuple)


@st.composite
def sequences(draw, slots=(-1, 0, 1)):
    ids = draw(tokens)
    mask = tuple(draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
    return Sequence(ids, mask, draw(st.sampled_from(slots)), draw(st.sampled_from([1.0, 0.5])))


batches = st.lists(sequences(), min_size=1, max_size=8)
SOFT, PREFIX = {0: 2}, {1: 3}


def build(batch):
    return Trie.build(batch, SOFT, PREFIX)


@given(batches)
def test_rows_spell_each_sequence(batch):
    trie = build(batch)
    for sequence, rows, path in zip(batch, trie.rows, trie.paths, strict=True):
        assert trie.ids[rows].tolist() == list(sequence.ids)
        assert len(path) - len(rows) == SOFT.get(sequence.slot, 0)
        start = PREFIX.get(sequence.slot, 0)
        assert trie.positions[path].tolist() == list(range(start, start + len(path)))
        assert set(trie.slots[path].tolist()) == {sequence.slot}


@given(batches)
def test_nothing_shared_stands_twice(batch):
    trie = build(batch)
    prefixes = {(s.slot, tuple(s.ids[:n].tolist())) for s in batch for n in range(1, len(s.ids) + 1)}
    virtual = sum(SOFT.get(slot, 0) for slot in {s.slot for s in batch})
    assert len(trie) == len(prefixes) + virtual
    assert len(set(range(len(trie))) - {int(r) for p in trie.paths for r in p}) == 0


@given(batches)
def test_a_token_sees_its_path_and_what_stands_in_front(batch):
    import torch

    trie = build(batch)
    front = {s: torch.zeros(1, 2, n, 1, 1) for s, n in PREFIX.items()}
    plan = TriePlan(trie, front)
    rule = plan.rule("cpu")
    row, key = torch.meshgrid(
        torch.arange(len(trie)), torch.arange(len(trie) + plan.in_front), indexing="ij"
    )
    visible = rule(0, 0, row, key).numpy()
    for slot, path in ((s.slot, p) for s, p in zip(batch, trie.paths, strict=True)):
        for depth, q in enumerate(path):
            own = set(path[: depth + 1] + plan.in_front)
            in_front = set(range(plan.in_front)) if slot == 1 else set()
            assert set(np.nonzero(visible[q])[0].tolist()) == own | in_front


@given(batches)
def test_edges_carry_every_supervised_token(batch):
    trie = build(batch)
    expected: dict[tuple[int, int], float] = {}
    for s, path in zip(batch, trie.paths, strict=True):
        extra = len(path) - len(s.ids)
        for at, target in enumerate(s.ids):
            if s.supervised[at] and at + extra > 0:
                key = (int(path[at + extra - 1]), int(target))
                expected[key] = expected.get(key, 0.0) + s.weight
    found = dict(
        zip(
            zip(trie.source.tolist(), trie.target.tolist(), strict=True),
            trie.weight.tolist(),
            strict=True,
        )
    )
    assert found == pytest.approx(expected)
    assert trie.source.tolist() == sorted(trie.source.tolist())


@given(batches, st.booleans())
def test_each_sequence_finds_its_own_edges(batch, prune):
    trie = Trie.build(batch, SOFT, PREFIX, prune=prune)
    for s, path, edges in zip(batch, trie.paths, trie.edges, strict=True):
        extra = SOFT.get(s.slot, 0)
        at = [i for i in np.flatnonzero(s.supervised).tolist() if i + extra > 0]
        assert trie.target[edges].tolist() == s.ids[at].tolist()
        assert trie.source[edges].tolist() == [int(path[i + extra - 1]) for i in at]
    shares = np.concatenate([np.full(len(e), s.weight) for s, e in zip(batch, trie.edges, strict=True)])
    every = np.concatenate(trie.edges)
    assert np.bincount(every, shares, len(trie.source)) == pytest.approx(trie.weight.numpy())


@pytest.mark.parametrize(
    "bad",
    [lambda: Trie.build([]), lambda: Sequence(()), lambda: Sequence((1, 2), (True,))],
    ids=["none", "empty", "mask"],
)
def test_bad_batches_are_refused(bad):
    with pytest.raises(ValueError):
        bad()


@given(batches)
def test_pruning_keeps_every_edge(batch):
    whole, pruned = build(batch), Trie.build(batch, SOFT, PREFIX, prune=True)
    assert len(pruned) <= len(whole)
    assert sum(whole.weight.tolist()) == pytest.approx(sum(pruned.weight.tolist()))
    for trie in (whole, pruned):
        assert all(0 <= s < len(trie) for s in trie.source.tolist())

    def named(trie):
        """Edges by the tokens that lead to them."""
        found = {}
        for s, path in zip(batch, trie.paths, strict=True):
            for depth, row in enumerate(path.tolist()):
                key = (s.slot, tuple(trie.ids[path[: depth + 1]].tolist()))
                edges = (trie.source == row).nonzero()[:, 0]
                found[key] = {int(trie.target[e]): float(trie.weight[e]) for e in edges}
        return {k: v for k, v in found.items() if v}

    assert named(whole) == named(pruned)
