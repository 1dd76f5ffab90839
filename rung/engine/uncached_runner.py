"""Runner for bases whose attention cannot carry the trie: right, and slow with long answers."""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from rung.engine.prefill import PrefillChunk, Read
from rung.forward.bank import Bank
from rung.forward.trie import Sequence


class UncachedRunner:
    """Runner that keeps ids in place of keys and values, and reads them all again in every step."""

    in_chunks = False

    def __init__(self, bank: Bank):
        self.bank = bank
        self._ids: dict[int, Sequence] = {}

    def arrange(self) -> None:
        pass

    def reserve(self, lanes: int, positions: int) -> bool:
        return True

    def resume(self, lane: int, slot: int, ids: Items[int]) -> int:
        return 0

    def read(self, chunks: Items[PrefillChunk]) -> Read:
        sequences = [Sequence(tuple(c.ids[: c.end]), slot=c.slot, begins=c.begins) for c in chunks]
        self._ids.update(zip((c.lane for c in chunks), sequences, strict=True))
        trie = self.bank.trie(sequences)
        rows = [torch.from_numpy(r).to(self.bank.device) for r in trie.rows]
        return Read(self.bank.forward(trie), rows)

    def keep(self, chunk: PrefillChunk) -> None:
        pass

    def decode(self, ids: Items[int], slots: Items[int]) -> Tensor:
        for lane, token in enumerate(ids):
            before = self._ids[lane]
            self._ids[lane] = Sequence((*before.ids, token), slot=before.slot, begins=before.begins)
        return self._forward(range(len(ids)))

    def decode_again(self, lanes: Items[int], ids: Items[int], slots: Items[int]) -> Tensor:
        return self._forward(lanes)

    def _forward(self, lanes: Items[int]) -> Tensor:
        sequences = [self._ids[lane] for lane in lanes]
        trie = self.bank.trie(sequences)
        last = torch.tensor([int(p[-1]) for p in trie.paths], device=self.bank.device)
        return self.bank.logits(self.bank.forward(trie)[last], [s.slot for s in sequences])

    def move(self, source: int, target: int) -> None:
        self._put(target, self._ids.get(source))

    def swap(self, a: int, b: int) -> None:
        first, second = self._ids.get(a), self._ids.get(b)
        self._put(a, second)
        self._put(b, first)

    def _put(self, lane: int, sequence: Sequence | None) -> None:
        self._ids.pop(lane, None)
        if sequence is not None:
            self._ids[lane] = sequence

    def cut(self, lane: int, front: int, count: int) -> None:
        whole = self._ids[lane]
        self._ids[lane] = Sequence(whole.ids[:count], slot=whole.slot, begins=whole.begins)

    def clear(self, lane: int) -> None:
        self._ids.pop(lane, None)

    def shrink(self, lanes: int, positions: int) -> None:
        pass

    def reset(self) -> None:
        self._ids.clear()

    def forget(self, slot: int | None = None) -> None:
        pass
