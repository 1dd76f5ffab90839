"""Running the bank for generation: prefill as one trie, then one token per lane and step."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Items
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rung.engine.cache import Cache, LayerShape
from rung.forward.bank import Bank
from rung.forward.slots import Slots
from rung.forward.trie import Sequence

log = logging.getLogger("rung.engine")


class Runner(Protocol):
    """What the engine needs of a base; lanes 0 to B - 1 are the running requests."""

    def reserve(self, lanes: int, entries: int) -> bool:
        """Make room for so many lanes of so many entries; False where memory forbids it."""
        ...

    def prefill(self, lanes: Items[int], sequences: Items[Sequence]) -> Tensor:
        """Read prompts into their lanes -> logits (N, V) of what follows each."""
        ...

    def decode(self, ids: Items[int], slots: Items[int]) -> Tensor:
        """Append one token to each of the lanes 0 to B - 1 -> logits (B, V) of what follows."""
        ...

    def move(self, source: int, target: int) -> None:
        """Let a lane stand in the place of another."""
        ...

    def clear(self, lane: int) -> None:
        """Empty a lane."""
        ...

    def reset(self) -> None:
        """Forget all lanes."""
        ...


def runner_of(bank: Bank, max_lanes: int, budget: int) -> Runner:
    """The fastest runner that is right for a base; says so where that is the slow one.

    Args:
        budget: bytes for keys and values.
    """
    if bank.carries_trie:
        return CachedRunner(bank, max_lanes, budget)
    log.warning("every step recomputes its whole sequences: %s", bank.why_not)
    return RecomputingRunner(bank)


class CachedRunner:
    """Keeps keys and values in lanes; what an adapter puts in front stands first in its lane."""

    def __init__(self, bank: Bank, max_lanes: int, budget: int):
        self.bank = bank
        self.cache = Cache(_shapes(bank), bank.dtype, bank.device, max_lanes, budget)
        self._slots = Slots([-1])

    def reserve(self, lanes: int, entries: int) -> bool:
        return self.cache.reserve(lanes, entries)

    def prefill(self, lanes: Items[int], sequences: Items[Sequence]) -> Tensor:
        trie = self.bank.trie(sequences)
        self._put_in_front(lanes, sequences)
        rows, at, into = [], [], []
        for lane, path in zip(lanes, trie.paths, strict=True):
            begin = self.cache.lengths[lane]
            rows.append(path)
            at.append(np.arange(begin, begin + len(path)))
            into.append(np.full(len(path), lane))
            self.cache.lengths[lane] = begin + len(path)
        row, place, lane_of = (self._tensor(np.concatenate(x)) for x in (rows, at, into))

        def record(layer: int, k: Tensor, v: Tensor) -> None:
            self.cache.write(layer, lane_of, place, k[row], v[row])

        hidden = self.bank.forward(trie, record)  # (T, d)
        last = self._tensor(np.array([path[-1] for path in trie.paths]))
        return self.bank.logits(hidden[last], [s.slot for s in sequences])

    def _put_in_front(self, lanes: Items[int], sequences: Items[Sequence]) -> None:
        for lane, sequence in zip(lanes, sequences, strict=True):
            self.cache.clear(lane)
            adapter = self.bank.adapters.get(sequence.slot)
            if adapter is None or adapter.keys_values is None:
                continue
            count = adapter.keys_values.shape[2]
            at = torch.arange(count, device=self.bank.device)
            for layer, (k, v) in enumerate(adapter.keys_values.to(self.bank.device)):
                self.cache.write(layer, torch.full_like(at, lane), at, k, v)
            self.cache.lengths[lane] = count

    def decode(self, ids: Items[int], slots: Items[int]) -> Tensor:
        plan = DecodePlan(self.cache, self._same_slots(slots))
        row = torch.tensor(ids, device=self.bank.device)
        hidden = self.bank.run(self.bank.embed(row, plan.slots), plan.positions, plan)
        self.cache.lengths[: len(ids)] += 1
        return self.bank.logits(hidden, plan.slots)

    def _same_slots(self, slots: Items[int]) -> Slots:
        """The last step's object where nobody joined or left: it keeps the seams' masks."""
        if not np.array_equal(self._slots.of_token, slots):
            self._slots = Slots(slots)
        return self._slots

    def move(self, source: int, target: int) -> None:
        self.cache.move(source, target)

    def clear(self, lane: int) -> None:
        self.cache.clear(lane)

    def reset(self) -> None:
        self.cache.reset()
        self._slots = Slots([-1])

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.bank.device)


class DecodePlan:
    """Attention of one token per lane over its lane (the protocol `forward.attention.Plan`)."""

    def __init__(self, cache: Cache, slots: Slots):
        self.cache, self.slots = cache, slots
        lengths = cache.lengths[: len(slots.of_token)]
        self.length = int(lengths.max()) + 1  # entries to look at, the new ones included
        self.positions = torch.from_numpy(lengths.copy()).to(cache.device)  # (B,)
        self.lanes = torch.arange(len(lengths), device=cache.device)
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def attend(self, layer, q, k, v, scaling, window=None, softcap=None):
        """q (1, H, B, hd), k and v (1, Hkv, B, hd) -> (1, B, H, hd)."""
        batch, heads = len(self.lanes), q.shape[1]
        self.cache.write(layer, self.lanes, self.positions, k[0].transpose(0, 1), v[0].transpose(0, 1))
        keys = self.cache.k[layer][:batch, :, : self.length]  # (B, Hkv, L, hd)
        values = self.cache.v[layer][:batch, :, : self.length]
        # The heads that share a key stand as its queries, so keys are not repeated: (B, Hkv, G, hd).
        grouped = q[0].transpose(0, 1).unflatten(1, (keys.shape[1], -1))
        mask = self._mask(window, q.dtype)
        if softcap is None:
            out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scaling)
        else:
            scores = torch.tanh(grouped @ keys.transpose(2, 3) * (scaling / softcap)) * softcap
            out = torch.softmax(scores + mask, -1, dtype=torch.float32).to(q.dtype) @ values
        return out.reshape(1, batch, heads, -1)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """(B, 1, 1, L) of 0 and -inf; made once per step."""
        key = (window, dtype)
        if key not in self._masks:
            at = torch.arange(self.length, device=self.positions.device)
            hidden = at > self.positions[:, None]
            if window:
                hidden |= self.positions[:, None] - at >= window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            self._masks[key] = mask.masked_fill_(hidden, float("-inf"))[:, None, None]
        return self._masks[key]


class RecomputingRunner:
    """For bases whose attention cannot carry the trie: right, and slow with long answers."""

    def __init__(self, bank: Bank):
        self.bank = bank
        self._ids: dict[int, Sequence] = {}

    def reserve(self, lanes: int, entries: int) -> bool:
        return True

    def prefill(self, lanes: Items[int], sequences: Items[Sequence]) -> Tensor:
        self._ids.update(zip(lanes, sequences, strict=True))
        return self._forward(sequences)

    def decode(self, ids: Items[int], slots: Items[int]) -> Tensor:
        for lane, token in enumerate(ids):
            before = self._ids[lane]
            self._ids[lane] = Sequence((*before.ids, token), slot=before.slot)
        return self._forward([self._ids[lane] for lane in range(len(ids))])

    def _forward(self, sequences: Items[Sequence]) -> Tensor:
        trie = self.bank.trie(sequences)
        last = torch.tensor([int(p[-1]) for p in trie.paths], device=self.bank.device)
        return self.bank.logits(self.bank.forward(trie)[last], [s.slot for s in sequences])

    def move(self, source: int, target: int) -> None:
        self._ids[target] = self._ids[source]

    def clear(self, lane: int) -> None:
        self._ids.pop(lane, None)

    def reset(self) -> None:
        self._ids.clear()


@torch.inference_mode()
def _shapes(bank: Bank) -> list[LayerShape]:
    """What each layer keeps of a token, found by running one."""
    found: dict[int, LayerShape] = {}

    def record(layer: int, k: Tensor, v: Tensor) -> None:
        found[layer] = LayerShape(k.shape[1], k.shape[2], v.shape[2])

    bank.forward(bank.trie([Sequence((0,))]), record)
    return [found[layer] for layer in sorted(found)]
