"""A batch as a trie: what sequences share at their beginning stands in it once.

The trie is laid out depth first as one flat row without padding. Token `kv` is visible to token `q`
exactly when `kv <= q < end[kv]`: a subtree is a contiguous range that starts at its own root.
Sequences share tokens only within one slot, because another adapter computes other keys and values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rung.forward.packing import common_prefix, sort_key

COMPUTED_BY_ADAPTER = np.int32(1 << 30)  # beyond every id; marks tokens behind where an adapter begins


class Sequence:
    """One token sequence of a batch. It does not change.

    Args:
        ids: vocabulary indices, at least one.
        supervised: which of them are to be predicted; None means none.

    Attributes:
        ids: (n,) int32. supervised: (n,) bool, or None.
        slot: the adapter's slot in the bank, -1 for the bare base.
        weight: what each of its supervised tokens counts in the loss.
        begins: the token at which the adapter begins to act, the base computes those before; None
            for an adapter that acts everywhere.

    Raises:
        ValueError: for no tokens, or a mask of another length.
    """

    def __init__(
        self,
        ids: ArrayLike,
        supervised: ArrayLike | None = None,
        slot: int = -1,
        weight: float = 1.0,
        begins: int | None = None,
    ):
        self.ids: NDArray[np.int32] = np.asarray(ids, dtype=np.int32)
        self.supervised: NDArray[np.bool_] | None = None
        self.slot, self.weight, self.begins = slot, weight, begins
        if supervised is not None:
            self.supervised = np.asarray(supervised, dtype=bool)
        if not len(self.ids):
            raise ValueError("a sequence needs at least one token")
        if self.supervised is not None and len(self.supervised) != len(self.ids):
            raise ValueError("ids and supervised differ in length")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Sequence({self.ids.tolist()}, slot={self.slot})"

    @cached_property
    def key(self) -> bytes:
        """Sorts sequences of one slot depth first."""
        return sort_key(self.told_apart)

    @property
    def told_apart(self) -> NDArray[np.int32]:
        """The ids, those that the adapter computes apart from those in front of where it begins."""
        if self.begins is None:
            return self.ids
        acting = np.arange(len(self.ids)) >= self.begins
        return np.where(acting, self.ids | COMPUTED_BY_ADAPTER, self.ids)

    def at(self, slot: int) -> Sequence:
        """The same tokens through another slot."""
        other = copy(self)
        other.slot = slot
        return other

    def beginning(self, at: int) -> Sequence:
        """The same tokens, through the slot's adapter from one of them on."""
        other = copy(self)
        other.begins = at
        other.__dict__.pop("key", None)
        return other


@dataclass
class Trie:
    """The flat row. T tokens, E edges, one array of rows per sequence.

    Attributes:
        ids: (T,) vocabulary indices; -1, -2, ... are the slot's virtual tokens.
        positions: (T,) depth, after any keys and values that the adapter puts in front.
        end: (T,) where each token's subtree ends.
        slots: (T,) slot of each token.
        acting: (T,) slot of the adapter that changes it; -1 in front of where that begins to act.
        source, target, weight: (E,) what to predict from where; an edge that n sequences share
            weighs n times as much. Sorted by source.
        rows: for each sequence in the order given, the rows of its own tokens.
        paths: the same with the virtual tokens in front.
        edges: for each sequence, the edges that predict its supervised tokens, in their order; the
            first token of a sequence has none unless virtual tokens stand before it.
    """

    ids: Tensor
    positions: Tensor
    end: Tensor
    slots: Tensor
    acting: Tensor
    source: Tensor
    target: Tensor
    weight: Tensor
    rows: list[np.ndarray]
    paths: list[np.ndarray]
    edges: list[np.ndarray]

    def __len__(self) -> int:
        return self.ids.numel()

    @classmethod
    def build(
        cls,
        sequences: Iterable[Sequence],
        soft: Mapping[int, int] | None = None,
        prefix: Mapping[int, int] | None = None,
        prune: bool = False,
        share: bool = True,
    ) -> Trie:
        """Merge sequences into a trie.

        Args:
            sequences: at least one, none empty.
            soft: virtual tokens in front, per slot; they are rows of the trie.
            prefix: keys and values in front, per slot; they are no rows, and shift the positions.
            prune: leave out the tokens from which nothing is predicted any more, such as each
                sequence's last; the loss and its gradient are the same without them.
            share: let sequences have what they begin with in common; without it every sequence
                stands whole and by itself, for bases whose numbers depend on a row's length.

        Raises:
            ValueError: for no sequences, an empty one, or a mask of another length.
        """
        batch = list(sequences)
        if not batch:
            raise ValueError("a batch needs at least one sequence")
        full = [_with_virtual(s, (soft or {}).get(s.slot, 0)) for s in batch]
        needed = [_needed(s) if prune and share else len(s) for s in batch]
        layout = _lay_out(batch, full, needed, share)
        offsets = np.array([(prefix or {}).get(int(s), 0) for s in layout.slots], dtype=np.int64)
        source, target, weight, edges = _edges(batch, full, layout.paths)
        return cls(
            ids=torch.from_numpy(layout.ids),
            positions=torch.from_numpy(layout.depth + offsets),
            end=torch.from_numpy(layout.end),
            slots=torch.from_numpy(layout.slots),
            acting=torch.from_numpy(layout.acting),
            source=torch.from_numpy(source),
            target=torch.from_numpy(target),
            weight=torch.from_numpy(weight),
            rows=[p[len(f) - len(s.ids) :] for p, f, s in zip(layout.paths, full, batch, strict=True)],
            paths=layout.paths,
            edges=edges,
        )


@dataclass
class _Layout:
    ids: np.ndarray
    depth: np.ndarray
    end: np.ndarray
    slots: np.ndarray
    acting: np.ndarray
    paths: list[np.ndarray]


def _with_virtual(sequence: Sequence, count: int) -> np.ndarray:
    virtual = np.arange(-1, -count - 1, -1, dtype=np.int64)
    return np.concatenate([virtual, sequence.told_apart.astype(np.int64)])


def _needed(sequence: Sequence) -> int:
    """The tokens up to the one from which the last supervised token is predicted, at least one."""
    if sequence.supervised is None:
        return len(sequence)
    at = np.flatnonzero(sequence.supervised)
    return max(1, int(at[-1])) if len(at) else len(sequence)


def _lay_out(
    batch: list[Sequence], full: list[np.ndarray], needed: list[int], share: bool = True
) -> _Layout:
    """Depth-first order is sorted order: each sequence adds what it does not share with the last.

    Args:
        full: tokens with the virtual ones in front, which all sequences of a slot share.
        needed: how many of its own tokens each sequence puts into the trie.
    """
    slots = [s.slot for s in batch]
    full = [f[: len(f) - len(s) + n] for s, f, n in zip(batch, full, needed, strict=True)]
    keys = [(s.slot, s.key[: 4 * n]) for s, n in zip(batch, needed, strict=True)]
    order = sorted(range(len(full)), key=keys.__getitem__)
    total = sum(len(f) for f in full)
    ids, depth, row_slots, end = (np.empty(total, dtype=np.int64) for _ in range(4))
    paths: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(full)
    path = np.empty(0, dtype=np.int64)
    previous, previous_slot, count = np.empty(0, dtype=np.int64), None, 0
    for i in order:
        tokens = full[i]
        shared = common_prefix(previous, tokens) if share and slots[i] == previous_slot else 0
        end[path[shared:]] = count
        fresh = len(tokens) - shared
        span = slice(count, count + fresh)
        ids[span] = tokens[shared:]
        depth[span] = np.arange(shared, len(tokens))
        row_slots[span] = slots[i]
        path = np.concatenate([path[:shared], np.arange(count, count + fresh)])
        paths[i] = path
        previous, previous_slot, count = tokens, slots[i], count + fresh
    end[path] = count
    acting = row_slots[:count]
    if any(s.begins is not None for s in batch):
        acting = acting.copy()
        for sequence, path in zip(batch, paths, strict=True):
            acting[path[: sequence.begins or 0]] = -1
        ids = np.where(ids < 0, ids, ids & ~np.int64(COMPUTED_BY_ADAPTER))
    return _Layout(ids[:count], depth[:count], end[:count], row_slots[:count], acting, paths)


def _edges(
    batch: list[Sequence], full: list[np.ndarray], paths: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """Edges as (source, target, weight), sorted and each once, and those of each sequence."""
    sources, targets, weights, counts = [], [], [], []
    for sequence, tokens, path in zip(batch, full, paths, strict=True):
        virtual = len(tokens) - len(sequence)
        if sequence.supervised is None:
            counts.append(0)
            continue
        at = np.flatnonzero(sequence.supervised) + virtual
        at = at[at > 0]  # nothing stands before the first token to predict it from
        sources.append(path[at - 1])
        targets.append(sequence.ids[at - virtual].astype(np.int64))
        weights.append(np.full(len(at), sequence.weight, dtype=np.float64))
        counts.append(len(at))
    if not sources:
        none = np.empty(0, dtype=np.int64)
        return none, none.copy(), np.empty(0, dtype=np.float32), [none for _ in batch]
    pairs = np.stack([np.concatenate(sources), np.concatenate(targets)])
    unique, inverse = np.unique(pairs, axis=1, return_inverse=True)
    inverse = inverse.reshape(-1)
    summed = np.bincount(inverse, np.concatenate(weights), unique.shape[1])
    edges = np.split(inverse, np.cumsum(counts)[:-1])
    return unique[0].copy(), unique[1].copy(), summed.astype(np.float32), edges
