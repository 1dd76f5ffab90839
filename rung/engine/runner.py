"""Runner: computes steps of generation, chunks of prompts as one trie, then one token per lane."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Items
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rung.engine.decode import DecodePlan
from rung.engine.kv_cache import KVCache, LayerShape
from rung.engine.prefill import PrefillChunk, Read, prefill_plan
from rung.engine.prefix_cache import PAGE, PrefixCache
from rung.engine.uncached_runner import UncachedRunner
from rung.forward import cache_shapes
from rung.forward.bank import Bank
from rung.forward.compiled.decoder import LastTokens
from rung.forward.llama.prepacked import Packing
from rung.forward.slots import Slots

log = logging.getLogger("rung.engine")

STEP_TOKENS = 16  # at most, of a read that goes by a compiled step: more take a trie less time
PREFIX_SHARE = 0.5  # maximum share of the memory that the prefix cache takes


class Runner(Protocol):
    """Protocol of what the engine needs of a base.

    Lanes 0 to B - 1 are the running requests, those that decode before those that still read.
    """

    in_chunks: bool  # whether a prompt can be read in several

    def arrange(self) -> None:
        """Prepare the base for decoding fast."""
        ...

    def reserve(self, lanes: int, positions: int) -> bool:
        """Make room for so many lanes of so many positions; False where memory forbids it."""
        ...

    def resume(self, lane: int, slot: int, ids: Items[int]) -> int:
        """Begin an empty lane with what the prefix cache has of a text -> how many ids, never all."""
        ...

    def read(self, chunks: Items[PrefillChunk]) -> Read:
        """Prefill chunks of texts into their lanes."""
        ...

    def keep(self, chunk: PrefillChunk) -> None:
        """Put a text up to the end of a chunk that was read into the prefix cache."""
        ...

    def decode(self, ids: Items[int], slots: Items[int]) -> Tensor:
        """Append one token to each of the lanes 0 to B - 1 -> logits (B, V) of what follows."""
        ...

    def decode_again(self, lanes: Items[int], ids: Items[int], slots: Items[int]) -> Tensor:
        """Repeat the last step for some of its lanes alone -> logits (n, V)."""
        ...

    def move(self, source: int, target: int) -> None:
        """Move a lane to the place of another, which is lost."""
        ...

    def swap(self, a: int, b: int) -> None:
        """Exchange two lanes."""
        ...

    def cut(self, lane: int, front: int, count: int) -> None:
        """Forget all that a lane has read but its first so many tokens, which stand behind `front`."""
        ...

    def clear(self, lane: int) -> None:
        """Empty a lane."""
        ...

    def shrink(self, lanes: int, positions: int) -> None:
        """Give back memory that so many lanes of so many positions are far from needing."""
        ...

    def reset(self) -> None:
        """Forget all lanes."""
        ...

    def forget(self, slot: int | None = None) -> None:
        """Drop what the prefix cache has of a slot, or of all."""
        ...


def runner_of(bank: Bank, max_lanes: int, budget: int) -> Runner:
    """Make the fastest runner that is right for a base; warns where that is the slow one.

    Args:
        budget: bytes for keys and values.
    """
    if bank.carries_trie:
        return CachedRunner(bank, max_lanes, budget)
    if bank.reads == "text":  # others take no step at all
        log.warning("every step recomputes its whole sequences: %s", bank.why_not)
    return UncachedRunner(bank)


class CachedRunner:
    """Runner with a KV cache; what an adapter puts in front stands first in its lane.

    Lanes and the prefix cache share the budget; lanes come first.
    """

    in_chunks = True

    def __init__(self, bank: Bank, max_lanes: int, budget: int):
        self.bank, self.budget = bank, budget
        self.cache = KVCache(
            [LayerShape(*s) for s in cache_shapes.attended(bank)],
            bank.dtype,
            bank.device,
            max_lanes,
            budget,
        )
        self.prefixes = PrefixCache()
        self._slots = Slots([-1])

    def arrange(self) -> None:
        """Lay the base's weights out for decoding, where it is built for that."""
        self.bank.prepare(Packing(rows=self.cache.max_lanes), decoding=True)
        self.reset()

    # --- memory ---------------------------------------------------------------------------------

    def reserve(self, lanes: int, positions: int) -> bool:
        size = self.cache.fitting_size(lanes, positions)
        if size is None:
            return False
        self.prefixes.shrink(self.budget - size[0] * size[1] * self.cache.position_bytes)
        self.cache.resize(*size)
        return True

    def shrink(self, lanes: int, positions: int) -> None:
        self.cache.shrink(lanes, positions)

    def move(self, source: int, target: int) -> None:
        self.cache.move(source, target)

    def swap(self, a: int, b: int) -> None:
        self.cache.swap(a, b)

    def cut(self, lane: int, front: int, count: int) -> None:
        self.cache.cut(lane, front + count)

    def clear(self, lane: int) -> None:
        self.cache.clear(lane)

    def reset(self) -> None:
        self.cache.reset()
        self._slots = Slots([-1])
        self.bank.forget_arrangements()

    def forget(self, slot: int | None = None) -> None:
        if slot is None:
            self.prefixes.clear()
        else:
            self.prefixes.forget(slot)

    # --- prompts --------------------------------------------------------------------------------

    def resume(self, lane: int, slot: int, ids: Items[int]) -> int:
        known = self.prefixes.find(slot, ids[: (len(ids) - 1) // PAGE * PAGE])
        self.cache.clear(lane)
        if parts := [page.tensors for page in known if page.tensors]:
            self.cache.copy_in(lane, parts)
        else:
            self._put_in_front(lane, slot)
        return max(0, len(known) - 1) * PAGE

    def _put_in_front(self, lane: int, slot: int) -> None:
        adapter = self.bank.adapters.get(slot)
        if adapter is None or adapter.keys_values is None:
            return
        count = adapter.keys_values.shape[2]
        at = torch.arange(count, device=self.bank.device)
        for layer, (k, v) in enumerate(adapter.keys_values.to(self.bank.device)):
            self.cache.write(layer, torch.full_like(at, lane), at, k, v)
        self.cache.lengths[lane] = count

    def read(self, chunks: Items[PrefillChunk]) -> Read:
        for chunk in chunks:
            self._drop_failed(chunk)
        return self._read_in_a_step(chunks) or self._read_as_trie(chunks)

    def _read_in_a_step(self, chunks: Items[PrefillChunk]) -> Read | None:
        """Read a few tokens, as those of a draft, as a step of decoding with a row for each; None where
        they are many, or begin a text, or no compiled step computes them."""
        counts = [c.end - c.begin for c in chunks]
        if sum(counts) > STEP_TOKENS or not all(c.begin for c in chunks):
            return None
        behind = np.concatenate(
            [self.cache.lengths[c.lane] + np.arange(c.end - c.begin) for c in chunks]
        )
        places, lanes = self._tensor(behind), np.repeat([c.lane for c in chunks], counts)
        slots = [c.slot_at(i) for c in chunks for i in range(c.begin, c.end)]
        plan = LastTokens(self.cache, self._tensor(lanes), Slots(slots))
        compiled = self.bank.decoder_for(plan)
        if compiled is None:
            return None
        ids = torch.tensor([i for c in chunks for i in c.ids[c.begin : c.end]], device=self.bank.device)
        hidden = compiled.run(self.bank.embed(ids, plan.slots), places, plan)
        for chunk, count in zip(chunks, counts, strict=True):
            self.cache.lengths[chunk.lane] += count
        return Read(hidden, list(torch.arange(len(ids)).split(counts)))

    def _read_as_trie(self, chunks: Items[PrefillChunk]) -> Read:
        trie, plan = prefill_plan(self.bank, self.cache, chunks)
        rows, at, into = [], [], []
        for chunk, path in zip(chunks, trie.paths, strict=True):
            begin = self.cache.lengths[chunk.lane]
            rows.append(path)
            at.append(np.arange(begin, begin + len(path)))
            into.append(np.full(len(path), chunk.lane))
        row, place, lane_of = (self._tensor(np.concatenate(x)) for x in (rows, at, into))

        def record(layer: int, k: Tensor, v: Tensor) -> None:
            self.cache.write(layer, lane_of, place, k[row], v[row])

        plan.record = record
        embeddings = self.bank.embed(trie.ids, plan.slots)
        positions = trie.positions.to(self.bank.device)
        hidden = self.bank.run(embeddings, positions, plan)  # (T, d)
        for chunk, path in zip(chunks, trie.paths, strict=True):
            self.cache.lengths[chunk.lane] += len(path)
        return Read(hidden, [self._tensor(r) for r in trie.rows])

    def _drop_failed(self, chunk: PrefillChunk) -> None:
        """Drop what an attempt that went wrong has left of a chunk in its lane."""
        if self.cache.lengths[chunk.lane] <= chunk.front + chunk.begin:
            return
        if chunk.begin:
            self.cache.lengths[chunk.lane] = chunk.front + chunk.begin
        else:
            self.cache.clear(chunk.lane)
            self._put_in_front(chunk.lane, chunk.slot)

    def keep(self, chunk: PrefillChunk) -> None:
        page_bytes = PAGE * self.cache.position_bytes
        slot, count = chunk.cached
        whole = count // PAGE
        most = min(int(self.budget * PREFIX_SHARE), self.budget - self.cache.size)
        known = len(self.prefixes.find(slot, chunk.ids[: whole * PAGE])) - 1
        front = chunk.front * self.cache.position_bytes if known < 0 else 0
        fresh = (whole - max(known, 0)) * page_bytes + front
        if whole - max(known, 0) < 1 or fresh > most:
            return
        self.prefixes.shrink(most - fresh)
        first = max(0, len(self.prefixes.find(slot, chunk.ids[: whole * PAGE])) - 1)
        begin, end = (chunk.front + n * PAGE for n in (first, whole))
        pages = self.cache.copy_out(chunk.lane, begin, end, PAGE)
        ahead = self.cache.copy_out(chunk.lane, 0, chunk.front, chunk.front) if chunk.front else [[]]
        self.prefixes.add(slot, chunk.ids, first, pages, ahead[0])

    # --- one token each -------------------------------------------------------------------------

    def decode(self, ids: Items[int], slots: Items[int]) -> Tensor:
        plan = DecodePlan(self.cache, self._same_slots(slots))
        logits = self._step(ids, plan)
        self.cache.lengths[: len(ids)] += 1
        return logits

    def decode_again(self, lanes: Items[int], ids: Items[int], slots: Items[int]) -> Tensor:
        self.cache.lengths[list(lanes)] -= 1
        logits = self._step(ids, DecodePlan(self.cache, Slots(slots), lanes))
        self.cache.lengths[list(lanes)] += 1
        return logits

    def _step(self, ids: Items[int], plan: DecodePlan) -> Tensor:
        row = torch.tensor(ids, device=self.bank.device)
        embeddings = self.bank.embed(row, plan.slots)
        return self.bank.logits(self.bank.run(embeddings, plan.positions, plan), plan.slots)

    def _same_slots(self, slots: Items[int]) -> Slots:
        """Return the last step's object where nobody joined or left: it keeps the seams' masks."""
        if not np.array_equal(self._slots.of_token, slots):
            self._slots = Slots(slots)
        return self._slots

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.bank.device)
