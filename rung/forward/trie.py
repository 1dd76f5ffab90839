"""A batch as a trie: what sequences share at their beginning stands in it once.

The trie is laid out depth first as one flat row without padding. Token `kv` is visible to token `q`
exactly when `kv <= q < end[kv]`: a subtree is a contiguous range that starts at its own root.
Sequences share tokens only within one slot, because another adapter computes other keys and values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Sequence:
    """One token sequence of a batch.

    Attributes:
        ids: vocabulary indices.
        supervised: which of them are to be predicted; None means none.
        slot: the adapter's slot in the bank, -1 for the bare base.
        weight: what each of its supervised tokens counts in the loss.
    """

    ids: tuple[int, ...]
    supervised: tuple[bool, ...] | None = None
    slot: int = -1
    weight: float = 1.0


@dataclass
class Trie:
    """The flat row. T tokens, E edges, one array of rows per sequence.

    Attributes:
        ids: (T,) vocabulary indices; -1, -2, ... are the slot's virtual tokens.
        positions: (T,) depth, after any keys and values that the adapter puts in front.
        end: (T,) where each token's subtree ends.
        slots: (T,) slot of each token.
        source, target, weight: (E,) what to predict from where; an edge that n sequences share
            weighs n times as much. Sorted by source.
        rows: for each sequence in the order given, the rows of its own tokens.
        paths: the same with the virtual tokens in front.
    """

    ids: Tensor
    positions: Tensor
    end: Tensor
    slots: Tensor
    source: Tensor
    target: Tensor
    weight: Tensor
    rows: list[np.ndarray]
    paths: list[np.ndarray]

    def __len__(self) -> int:
        return self.ids.numel()

    @classmethod
    def build(
        cls,
        sequences: Iterable[Sequence],
        soft: Mapping[int, int] | None = None,
        prefix: Mapping[int, int] | None = None,
        prune: bool = False,
    ) -> Trie:
        """Merge sequences into a trie.

        Args:
            sequences: at least one, none empty.
            soft: virtual tokens in front, per slot; they are rows of the trie.
            prefix: keys and values in front, per slot; they are no rows, and shift the positions.
            prune: leave out the tokens from which nothing is predicted any more, such as each
                sequence's last; the loss and its gradient are the same without them.

        Raises:
            ValueError: for no sequences, an empty one, or a mask of another length.
        """
        batch = list(sequences)
        _check(batch)
        full = [_with_virtual(s, (soft or {}).get(s.slot, 0)) for s in batch]
        kept = [_needed(s, f) for s, f in zip(batch, full, strict=True)] if prune else full
        layout = _lay_out(kept, [s.slot for s in batch])
        offsets = np.array([(prefix or {}).get(int(s), 0) for s in layout.slots], dtype=np.int64)
        source, target, weight = _edges(batch, full, layout.paths)
        return cls(
            ids=torch.from_numpy(layout.ids),
            positions=torch.from_numpy(layout.depth + offsets),
            end=torch.from_numpy(layout.end),
            slots=torch.from_numpy(layout.slots),
            source=torch.from_numpy(source),
            target=torch.from_numpy(target),
            weight=torch.from_numpy(weight),
            rows=[p[len(f) - len(s.ids) :] for p, f, s in zip(layout.paths, full, batch, strict=True)],
            paths=layout.paths,
        )


@dataclass
class _Layout:
    ids: np.ndarray
    depth: np.ndarray
    end: np.ndarray
    slots: np.ndarray
    paths: list[np.ndarray]


def _check(batch: list[Sequence]) -> None:
    if not batch:
        raise ValueError("a batch needs at least one sequence")
    for s in batch:
        if not s.ids:
            raise ValueError("a sequence needs at least one token")
        if s.supervised is not None and len(s.supervised) != len(s.ids):
            raise ValueError("ids and supervised differ in length")


def _with_virtual(sequence: Sequence, count: int) -> np.ndarray:
    virtual = np.arange(-1, -count - 1, -1, dtype=np.int64)
    return np.concatenate([virtual, np.asarray(sequence.ids, dtype=np.int64)])


def _needed(sequence: Sequence, tokens: np.ndarray) -> np.ndarray:
    """The tokens up to the one from which the last supervised token is predicted, at least one."""
    if sequence.supervised is None or True not in sequence.supervised:
        return tokens
    unused = 1 + tuple(reversed(sequence.supervised)).index(True)
    return tokens[: max(1, len(tokens) - unused)]


def _lay_out(full: list[np.ndarray], slots: list[int]) -> _Layout:
    """Depth-first order is sorted order: each sequence adds what it does not share with the last."""
    order = sorted(range(len(full)), key=lambda i: (slots[i], full[i].tolist()))
    total = sum(len(f) for f in full)
    ids, depth, row_slots, end = (np.empty(total, dtype=np.int64) for _ in range(4))
    paths: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(full)
    path = np.empty(0, dtype=np.int64)
    previous, previous_slot, count = np.empty(0, dtype=np.int64), None, 0
    for i in order:
        tokens = full[i]
        shared = _common(previous, tokens) if slots[i] == previous_slot else 0
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
    return _Layout(ids[:count], depth[:count], end[:count], row_slots[:count], paths)


def _common(a: np.ndarray, b: np.ndarray) -> int:
    n = min(len(a), len(b))
    differs = np.nonzero(a[:n] != b[:n])[0]
    return int(differs[0]) if len(differs) else n


def _edges(
    batch: list[Sequence], full: list[np.ndarray], paths: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sources, targets, weights = [], [], []
    for sequence, tokens, path in zip(batch, full, paths, strict=True):
        if sequence.supervised is None:
            continue
        virtual = len(tokens) - len(sequence.ids)
        at = np.nonzero(np.asarray(sequence.supervised, dtype=bool))[0] + virtual
        at = at[at > 0]  # nothing stands before the first token to predict it from
        sources.append(path[at - 1])
        targets.append(tokens[at])
        weights.append(np.full(len(at), sequence.weight, dtype=np.float64))
    if not sources:
        none = np.empty(0, dtype=np.int64)
        return none, none.copy(), np.empty(0, dtype=np.float32)
    pairs = np.stack([np.concatenate(sources), np.concatenate(targets)])
    unique, inverse = np.unique(pairs, axis=1, return_inverse=True)
    summed = np.bincount(inverse.reshape(-1), np.concatenate(weights), unique.shape[1])
    return unique[0].copy(), unique[1].copy(), summed.astype(np.float32)
