"""Packing of token sequences into micro-batches: rows that begin alike go into one, and fit a budget.

Sequences are int32 arrays of token ids. Their big-endian bytes sort as the ids themselves do, which is
the depth-first order of a trie, and compare faster than lists of numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]


def sort_key(ids: Ids) -> bytes:
    """Big-endian bytes of token ids (n,): 4 n bytes, in the order of the ids where none is negative."""
    return ids.astype(">i4").tobytes()


def common_prefix(a: Sequence[int] | np.ndarray, b: Sequence[int] | np.ndarray) -> int:
    """Count the tokens that two sequences share at their beginning."""
    n = min(len(a), len(b))
    differs = np.nonzero(np.asarray(a[:n]) != np.asarray(b[:n]))[0]
    return int(differs[0]) if len(differs) else n


def last_of(wanted: Sequence[int], ids: Sequence[int] | np.ndarray) -> int | None:
    """Where a sequence of tokens, at least one, begins for the last time in another; None: nowhere."""
    row, count = np.asarray(ids), len(wanted)
    if len(row) < count:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(row, count)
    found = np.flatnonzero((windows == np.asarray(wanted)).all(1))
    return int(found[-1]) if len(found) else None


def depth_first(ids: Sequence[Ids]) -> list[int]:
    """Order sequences as a trie holds them: what begins alike stands together."""
    keys = [sort_key(i) for i in ids]
    return sorted(range(len(ids)), key=keys.__getitem__)


def fresh_tokens(ids: Sequence[Ids], order: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield each sequence of an order with how many tokens it adds to the trie of those before it."""
    previous: Ids | None = None
    for i in order:
        shared = 0 if previous is None else common_prefix(previous, ids[i])
        yield i, len(ids[i]) - shared
        previous = ids[i]


def trie_tokens(ids: Sequence[Ids]) -> int:
    """Count the tokens of the trie of sequences: what they share at the beginning counts once."""
    return sum(fresh for _, fresh in fresh_tokens(ids, depth_first(ids)))


def pack(ids: Sequence[Ids], budget: int, tokens: Sequence[int] | None = None) -> list[list[int]]:
    """Split rows into micro-batches of at most `budget` tokens of a trie, at least one row each.

    Args:
        ids: (n,) of each row, by which rows are ordered and share beginnings.
        tokens: what each row takes alone; its length by default.

    Returns:
        the places of the rows, group by group in depth-first order.
    """
    groups: list[list[int]] = []
    used = 0
    for i, fresh in fresh_tokens(ids, depth_first(ids)):
        whole = len(ids[i]) if tokens is None else tokens[i]
        fresh += whole - len(ids[i])
        if groups and used + fresh <= budget:
            groups[-1].append(i)
            used += fresh
        else:
            groups.append([i])
            used = whole
    return groups


def cut(ids: Sequence[Ids], parts: int, tokens: Sequence[int] | None = None) -> list[list[int]]:
    """Cut rows into parts of about equal work: the largest trie of a part is as small as it can be.

    Parts are pieces of the depth-first order, so that rows that begin alike stay together.

    Args:
        ids, tokens: as `pack` takes them.

    Returns:
        the places of the rows of each part; some are empty where there are few rows.
    """
    low, high = 0, sum(len(i) for i in ids) + sum(tokens or ())
    while low < high:  # `pack` is greedy, so a larger budget never takes more groups
        middle = (low + high) // 2
        low, high = (low, middle) if len(pack(ids, middle, tokens)) <= parts else (middle + 1, high)
    groups = pack(ids, low, tokens)
    return groups + [[] for _ in range(parts - len(groups))]
