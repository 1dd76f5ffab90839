"""Prefill: chunks of prompts as one trie, each behind what its lane holds already.

Chunks that stand behind the same text, of the same slot, share their beginning in the trie as whole
prompts do; what their lanes hold stands in front of them like a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from rung.forward.attention import TriePlan
from rung.forward.bank import Bank
from rung.forward.slots import Slots
from rung.forward.trie import Sequence, Trie

if TYPE_CHECKING:
    from rung.engine.kv_cache import KVCache


@dataclass(frozen=True)
class PrefillChunk:
    """Part ids[begin:end] of a text, to be read into a lane that holds what stands before.

    Attributes:
        front: positions that the slot's adapter takes in front of the text.
        begins: token of the text at which the slot's adapter begins to act; None: it acts everywhere.
    """

    lane: int
    slot: int
    ids: Items[int]
    begin: int
    end: int
    front: int
    begins: int | None = None

    @property
    def cached(self) -> tuple[int, int]:
        """The slot under which what is computed of the text may be kept, and of how many tokens: what
        stands in front of where an adapter begins to act is the base's."""
        return (self.slot, self.end) if self.begins is None else (-1, min(self.begins, self.end))

    def slot_at(self, place: int) -> int:
        """Whose token of the text it is that stands at a place."""
        return self.slot if self.begins is None or place >= self.begins else -1


@dataclass(frozen=True)
class Read:
    """Result of a prefill: hidden states (T, d), and for each chunk the rows of its tokens."""

    hidden: Tensor
    rows: list[Tensor]


class LaneFront:
    """Lane's first n positions as keys and values in front: what `TriePlan` wants of a prefix."""

    def __init__(self, cache: KVCache, lane: int, n: int):
        self.cache, self.lane, self.n = cache, lane, n
        self.shape = (len(cache.shapes), 2, n)

    def __getitem__(self, at: tuple[int, int]) -> Tensor:
        """(layer, 0 for keys or 1 for values) -> (n, heads, width)."""
        layer, which = at
        kind = self.cache.v if which else self.cache.k
        return kind[layer][self.lane, :, : self.n].transpose(0, 1)


def prefill_plan(bank: Bank, cache: KVCache, chunks: Items[PrefillChunk]) -> tuple[Trie, TriePlan]:
    """Build the trie of some chunks and the plan of its attention."""
    groups: dict[tuple, int] = {}
    slots: list[int] = []
    soft: dict[int, int] = {}
    front: dict[int, Any] = {}
    sequences = []
    for chunk in chunks:
        held = int(cache.lengths[chunk.lane])
        key = (chunk.slot, held, chunk.begins, tuple(chunk.ids[: chunk.begin]))
        group = groups.setdefault(key, len(groups))
        if group == len(slots):
            slots.append(chunk.slot)
            if held:
                front[group] = LaneFront(cache, chunk.lane, held)
            elif chunk.front:
                soft[group] = chunk.front
        begins = None if chunk.begins is None else max(0, chunk.begins - chunk.begin)
        sequences.append(Sequence(tuple(chunk.ids[chunk.begin : chunk.end]), slot=group, begins=begins))
    trie = Trie.build(sequences, soft, {g: f.n for g, f in front.items()})
    plan = TriePlan(trie, front)
    # The seams go by adapter, not by group; -1 stands last, and so for itself.
    plan.slots = Slots(np.array([*slots, -1])[trie.acting.numpy()])
    return trie, plan
