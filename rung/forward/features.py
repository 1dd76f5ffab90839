"""Hidden states of the frozen base, computed once and shared by rungs, trials and epochs.

Two ways to use them: `pooled`, a vector for each prompt at several layers (for a linear probe), and
`Boundary`, the state of every token at one layer, from which training goes on (last_layers). Both put
all rows into one trie, so what rows share is computed once for each pass of up to `MAX_PASS_TOKENS`.
The passes follow from the rows alone, so that what is computed again is equal to the bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rung.errors import Interrupted
from rung.forward import feature_cache
from rung.forward.backbone import Backbone
from rung.forward.bank import Bank
from rung.forward.llama.prepacked import Packing
from rung.forward.packing import common_prefix, pack
from rung.forward.trie import Sequence as Row
from rung.forward.trie import Trie

MAX_PASS_TOKENS = 1024  # of a trie; with more, what a layer passes on leaves the processor's caches
MIN_PACKED_TOKENS = 4096  # of all rows, from which on laying the weights out for long passes pays
POOLINGS = ("last", "mean", "own")
Stopping = Callable[[], bool]


def passes(
    backbone: Backbone, rows: Sequence[Row], wanted: Collection[int], stopping: Stopping = lambda: False
) -> Iterator[tuple[list[int], Trie, dict[int, Tensor]]]:
    """Go through rows of the bare base, those that begin alike together.

    Args:
        wanted: boundaries; layers above the last of them are not run.

    Yields:
        which rows, their trie, and its hidden states by boundary (see `LayerRange`), each (T, d).

    Raises:
        Interrupted: when `stopping` says so between two passes.
    """
    with torch.no_grad():
        for chosen in _cut(rows):
            if stopping():
                raise Interrupted
            trie = Trie.build([rows[i] for i in chosen], prune=True, share=backbone.shares)
            yield chosen, trie, backbone.states(trie, wanted)


def _cut(rows: Sequence[Row]) -> Iterator[list[int]]:
    """Rows in the order of their tokens, in groups of at most MAX_PASS_TOKENS of a trie.

    Every pass computes again what its rows share with those before it. A long beginning that all rows
    share is kept from weighing by a larger budget.
    """
    if not rows:
        return
    least, most = min(rows, key=lambda r: r.key), max(rows, key=lambda r: r.key)
    yield from pack([r.ids for r in rows], max(MAX_PASS_TOKENS, 8 * common_prefix(least.ids, most.ids)))


# --- one vector for each prompt -------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """What all prompts of a data set have in common: how they begin and how they end."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    @classmethod
    def of(cls, prompts: Sequence[tuple[int, ...]]) -> Frame:
        """The longest beginning and end that all prompts share."""
        if not prompts:
            return cls()
        shortest, longest = min(prompts), max(prompts)
        prefix = shortest[: common_prefix(shortest, longest)]
        turned = [p[len(prefix) :][::-1] for p in prompts]
        suffix = min(turned)[: common_prefix(min(turned), max(turned))][::-1]
        return cls(prefix, suffix)

    def own(self, ids: Sequence[int] | np.ndarray) -> slice:
        """Where a prompt's own tokens stand; all of it when it has none."""
        start = common_prefix(self.prefix, ids)
        stop = len(ids) - common_prefix(self.suffix[::-1], ids[::-1])
        return slice(start, stop) if start < stop else slice(0, len(ids))


def pooled(
    backbone: Backbone,
    prompts: Sequence[tuple[int, ...]],
    layers: Sequence[int],
    frame: Frame,
    keep: bool = False,
    stopping: Stopping = lambda: False,
) -> dict[str, Tensor]:
    """Features of prompts: "LAYER.POOLING" -> (N, d) float32, for every layer and pooling.

    Args:
        layers: boundaries, see `LayerRange`.
        frame: what the pooling `own` leaves out.
        keep: on disk, for whoever asks the same again.

    Raises:
        Interrupted: when `stopping` says so.
    """
    rows = [Row(p) for p in prompts]
    names = [f"{layer}.{pooling}" for layer in layers for pooling in POOLINGS]
    shape = ((len(rows), backbone.width), torch.float32)

    def fill(into: dict[str, Tensor]) -> None:
        if sum(map(len, rows)) >= MIN_PACKED_TOKENS:
            # Not measured whether it is a gain, so that every run computes the same features.
            backbone.prepare(Packing(rows=MAX_PASS_TOKENS, max_rows=None, gain=None))
        for chosen, trie, hidden in passes(backbone, rows, set(layers), stopping):
            pools = _Pools(trie, [frame.own(rows[i].ids) for i in chosen], backbone.device)
            for layer in layers:
                for pooling, vectors in pools.of(hidden[layer].float()).items():
                    into[f"{layer}.{pooling}"][chosen] = vectors.cpu()

    parts = [feature_cache.digest(prompts), list(layers), list(frame.prefix), list(frame.suffix)]
    name = feature_cache.key(backbone, "pooled", *parts) if keep else None
    found = feature_cache.keep(name, dict.fromkeys(names, shape), fill)
    if found is None:
        raise MemoryError("features of all rows and layers fit neither on disk nor into memory")
    return found


class Means:
    """Means of a trie's states over paths: for each path the indices of its tokens, at least one."""

    def __init__(self, paths: Sequence[np.ndarray], device: torch.device):
        starts = np.cumsum([0, *(len(p) for p in paths[:-1])])
        self.tokens = torch.from_numpy(np.concatenate(paths)).to(device)
        self.starts = torch.from_numpy(starts).to(device)

    def of(self, states: Tensor) -> Tensor:
        """(T, d) -> (paths, d)."""
        return F.embedding_bag(self.tokens, states, self.starts, mode="mean")


class _Pools:
    """What takes a trie's states to its rows' vectors of each pooling."""

    def __init__(self, trie: Trie, own: Sequence[slice], device: torch.device):
        parts = [p[part] for p, part in zip(trie.rows, own, strict=True)]
        self.last = torch.tensor([int(p[-1]) for p in trie.rows], device=device)
        self.means = Means([*trie.rows, *parts], device)

    def of(self, states: Tensor) -> dict[str, Tensor]:
        """(T, d) -> (N, d) by pooling."""
        mean, own = self.means.of(states).chunk(2)
        return {"last": states[self.last], "mean": mean, "own": own}


# --- the state of every token at one layer ----------------------------------------------------------


class Boundary:
    """What enters one layer, for every token of the rows that were added; training goes on from there.

    Attributes:
        pieces: (N, d) each in the base's precision, a state for each node of the trie of rows that were
            added together.
        nodes: for each row's tokens, as bytes of int64, its piece and the places of its states there.
    """

    def __init__(self, bank: Bank, layer: int):
        self.bank, self.layer = bank, layer
        self.pieces: list[Tensor] = []
        self.nodes: dict[bytes, tuple[int, np.ndarray]] = {}
        self._noted = False
        self._tokens, self._seconds = 0, 0.0  # that were computed, and what it took

    @classmethod
    def possible(cls, bank: Bank, layer: int) -> bool:
        """Whether passes of a base can start at a layer."""
        return 0 < layer <= bank.layers.count and bank.layers.starts

    def add(
        self,
        rows: Sequence[Row],
        note: Callable[[str], None] = lambda _: None,
        stopping: Stopping = lambda: False,
    ) -> bool:
        """Compute the states of rows, or find them; False where the machine has no room for them.

        Args:
            rows: as they will be trained on, with their supervision: what pruning leaves is kept.
            note: told once where there is no room on disk.

        Raises:
            Interrupted: when `stopping` says so.
        """
        bare = [Row(r.ids, r.supervised) for r in rows]
        whole = Trie.build(bare, prune=True)

        def fill(into: dict[str, Tensor]) -> None:
            began = time.perf_counter()
            for chosen, trie, hidden in passes(self.bank, bare, {self.layer}, stopping):
                states = hidden[self.layer].cpu()
                for i, path in zip(chosen, trie.paths, strict=True):
                    into["states"][whole.paths[i]] = states[path]
            self._tokens += len(whole)
            self._seconds += time.perf_counter() - began

        def told(text: str) -> None:
            if not self._noted:
                note(text)
            self._noted = True

        ids = whole.ids.numpy()
        kept = [tuple(ids[path].tolist()) for path in whole.paths]
        name = feature_cache.key(self.bank, "boundary", self.layer, feature_cache.digest(kept))
        shape = ((len(whole), self.bank.width), self.bank.dtype)
        held = sum(piece.nbytes for piece in self.pieces)
        found = feature_cache.keep(name, {"states": shape}, fill, told, held)
        if found is None:
            return False
        self.nodes |= {ids[path].tobytes(): (len(self.pieces), path) for path in whole.paths}
        self.pieces.append(found["states"])
        return True

    def seconds_of(self, tokens: int) -> float:
        """What computing so many tokens of a trie would take; infinity before any were computed."""
        return tokens * self._seconds / self._tokens if self._tokens else math.inf

    def forward(self, trie: Trie, edges_only: bool = False) -> Tensor:
        """As `bank.forward`: hidden states after the final norm, (T, d).

        A trie with rows that are not kept goes through the whole base.

        Args:
            edges_only: states will be read only where edges start.
        """
        ids = trie.ids.numpy()
        pieces, places = np.empty((2, len(trie)), dtype=np.int64)
        for path in trie.paths:
            known = self.nodes.get(ids[path].tobytes())
            if known is None:
                return self.bank.forward(trie, edges_only=edges_only)
            pieces[path], places[path] = known
        hidden = torch.empty(len(trie), self.bank.width, dtype=self.bank.dtype)
        for piece in np.unique(pieces):
            at = np.flatnonzero(pieces == piece)
            hidden[torch.from_numpy(at)] = self.pieces[piece][torch.from_numpy(places[at])]
        hidden = hidden.to(self.bank.device)
        return self.bank.forward_from(self.layer, hidden, trie, edges_only=edges_only)
