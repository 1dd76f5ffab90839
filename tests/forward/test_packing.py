"""Micro-batches hold every row once, fit their budget, and count shared beginnings once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rung.forward.packing import common_prefix, depth_first, pack, sort_key, trie_tokens
from rung.forward.trie import Sequence, Trie

ROWS = st.lists(st.lists(st.integers(0, 70_000), min_size=1, max_size=6), min_size=1, max_size=12)
FEW = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12)


def arrays(rows):
    return [np.array(row, dtype=np.int32) for row in rows]


@given(ROWS)
def test_bytes_sort_as_the_ids_do(rows):
    assert [rows[i] for i in depth_first(arrays(rows))] == sorted(rows)
    assert sort_key(np.array([1, 256], dtype=np.int32)) == b"\0\0\0\1\0\0\1\0"


@given(FEW)
def test_tokens_are_those_of_the_trie(rows):
    assert trie_tokens(arrays(rows)) == len(Trie.build([Sequence(row) for row in rows]))


@given(FEW, st.integers(1, 20))
def test_groups_fit_their_budget(rows, budget):
    groups = pack(arrays(rows), budget)
    assert sorted(i for group in groups for i in group) == list(range(len(rows)))
    for group in groups:
        assert len(group) == 1 or trie_tokens(arrays([rows[i] for i in group])) <= budget
    for left, right in zip(groups, groups[1:], strict=False):  # as few as this order allows
        assert trie_tokens(arrays([rows[i] for i in [*left, right[0]]])) > budget


def test_a_row_may_take_more_than_what_it_is_sorted_by():
    rows = arrays([[1, 2, 3], [1, 2, 4], [1, 2, 5]])
    assert pack(rows, 8, [5, 5, 5]) == [[0, 1], [2]]  # 5, then 5 less the 2 that are shared
    assert pack(rows, 4, [5, 5, 5]) == [[0], [1], [2]]


def test_common_prefix_of_any_sequences():
    assert common_prefix((1, 2, 3), [1, 2, 4, 5]) == 2
    assert common_prefix(np.array([7]), np.array([7, 8])) == 1 and common_prefix((), (1,)) == 0
