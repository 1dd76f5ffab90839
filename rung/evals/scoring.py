"""Log-likelihoods of answers, computed on tries.

All items of a batch with all their answers are sequences of one trie, so what they share is computed
once. Sorted, the whole data set is one trie that is walked in slices: what a slice shares with the next
one (the system prompt, the examples) is kept as keys and values and stands in front of it, so that no
token is computed twice. Logits are formed only where an answer is predicted from.

It gives the figures of lm-evaluation-harness, where each request is a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from rung.engine import ServedModel
from rung.errors import ConfigError, Interrupted
from rung.forward import trie as tries
from rung.forward.bank import Bank
from rung.forward.packing import common_prefix, sort_key
from rung.memory import keep_freed
from rung.types import Example, Message, Rendered

BATCH_TOKENS = 2048  # tokens of a slice that are computed; measured with bench/eval.py
LOGIT_ROWS = 128  # positions whose logits are held at once
WASTE = 64  # tokens of the shared beginning that a slice may compute again before it is cut instead


@dataclass(frozen=True)
class Item:
    """What may follow a prompt: token ids, none empty."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]


def as_seen(model: ServedModel, asked: Sequence[Message], example: Example) -> Example:
    """A conversation as a model sees it, whose adapter may rewrite what stands in front of the reply.

    Replies in the examples that an adapter shows are none of the row's own: they are not to be learnt.

    Args:
        asked: the row's turns in front of its reply.
    """
    if model.conversation is None:
        return example
    seen = list(model.messages(asked))
    replies = [i for i, m in enumerate(seen) if m["role"] == "assistant"]
    own = sum(m["role"] == "assistant" for m in asked)
    for i in replies[: max(0, len(replies) - own)]:  # examples stand in front
        seen[i] = {**seen[i], "weight": 0}
    return Example((*seen, example.messages[-1]), origin=example.origin)


def replies_of(row: Rendered) -> list[Item]:
    """What of a row is supervised, each reply behind all that stands in front of it."""
    mask = (False, *row.supervised, False)
    edges = [i for i, (a, b) in enumerate(pairwise(mask)) if a != b]
    return [
        Item(row.ids[:start], (row.ids[start:end],))
        for start, end in zip(edges[::2], edges[1::2], strict=True)
    ]


@dataclass
class _Path:
    """One sequence: the prompt and one answer, without its last token, from which nothing follows."""

    item: int
    answer: int
    ids: np.ndarray
    targets: np.ndarray

    @property
    def most(self) -> int:
        """How many of its tokens may stand in front: none that an answer's token follows."""
        return len(self.ids) - len(self.targets)


@dataclass
class _Front:
    """Keys and values that stand in front of a slice: of the adapter, then of `ids`."""

    ids: np.ndarray
    keys_values: Tensor | None = None  # (layers, 2, adapter's + len(ids), kv_heads, hd)


@torch.inference_mode()
@keep_freed()
def score(
    bank: Bank,
    slot: int,
    items: Sequence[Item],
    *,
    max_tokens: int = BATCH_TOKENS,
    stopping: Callable[[], bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[float]]:
    """The log-probability of each answer of each item, in nats, summed over its tokens.

    Args:
        bank: the base with its adapters. slot: the adapter's, -1 for the bare base.
        max_tokens: tokens to compute in one pass.
        stopping: asked before each pass. progress: told how many answers a pass has scored.

    Raises:
        Interrupted: when `stopping` says so.
        ConfigError: for a base that is not causal.
        ValueError: for an empty prompt or answer.
    """
    if bank.findings.causal is not None:
        raise ConfigError(f"this base cannot score answers: {bank.findings.causal}")
    paths = _paths(items)
    scores = [[0.0] * len(item.answers) for item in items]
    bank.join()
    walk = _Walk(bank, slot, max_tokens)
    at = 0
    while at < len(paths):
        if stopping is not None and stopping():
            raise Interrupted
        stop = walk.cut(paths, at)
        following = paths[stop] if stop < len(paths) else None
        found = walk.run(paths[at:stop], following)
        for path, value in zip(paths[at:stop], found, strict=True):
            scores[path.item][path.answer] = value
        if progress is not None:
            progress(stop - at)
        at = stop
    return scores


def _paths(items: Sequence[Item]) -> list[_Path]:
    """All sequences in depth-first order."""
    paths = []
    for i, item in enumerate(items):
        if not item.prompt or not all(item.answers):
            raise ValueError("a prompt or an answer is empty")
        for j, answer in enumerate(item.answers):
            ids = np.asarray((*item.prompt, *answer), dtype=np.int64)
            paths.append(_Path(i, j, ids[:-1], ids[len(item.prompt) :]))
    return sorted(paths, key=lambda p: sort_key(p.ids))


@dataclass
class _Asked:
    """What is predicted in a slice: all paths' targets, one behind another.

    Attributes:
        rows: the trie's tokens that something is predicted from. place: per target, which of them.
        counts: targets of each path.
    """

    rows: np.ndarray
    place: np.ndarray
    targets: np.ndarray
    counts: list[int]

    @classmethod
    def of(cls, paths: Sequence[_Path], trie: tries.Trie) -> _Asked:
        counts = [len(p.targets) for p in paths]
        source = np.concatenate([r[-c:] for r, c in zip(trie.paths, counts, strict=True)])
        rows, place = np.unique(source, return_inverse=True)
        return cls(rows, place, np.concatenate([p.targets for p in paths]), counts)


class _Walk:
    """Goes through sorted paths slice by slice, keeping what the next slice begins with."""

    def __init__(self, bank: Bank, slot: int, max_tokens: int):
        self.bank, self.slot, self.max_tokens = bank, slot, max_tokens
        self.front = _Front(np.empty(0, dtype=np.int64))
        adapter = bank.adapters.get(slot)
        self.prefix: Tensor | None = None if adapter is None else adapter.keys_values
        self.before = bank.positions(slot)
        self.soft = self.before - (0 if self.prefix is None else self.prefix.shape[2])

    def cut(self, paths: Sequence[_Path], at: int) -> int:
        """Where the slice that begins at `at` ends."""
        if not self.bank.carries_trie:
            return self._cut_padded(paths, at)
        shared = self._usable(paths[at])
        tokens = len(paths[at].ids) - shared
        stop = at + 1
        while stop < len(paths):
            common = common_prefix(paths[stop - 1].ids, paths[stop].ids)
            recomputed = max(0, shared - min(common, paths[stop].most))
            fresh = len(paths[stop].ids) - common + recomputed
            if tokens + fresh > self.max_tokens or recomputed > WASTE:
                break
            shared, tokens, stop = shared - recomputed, tokens + fresh, stop + 1
        return stop

    def _cut_padded(self, paths: Sequence[_Path], at: int) -> int:
        longest, stop = 0, at
        while stop < len(paths):
            longest = max(longest, len(paths[stop].ids))
            if stop > at and longest * (stop - at + 1) > self.max_tokens:
                break
            stop += 1
        return stop

    def _usable(self, path: _Path) -> int:
        """How much of the front a path can stand behind."""
        adapter = self.bank.adapters.get(self.slot)
        if self.front.keys_values is None or (adapter is not None and adapter.activation):
            return 0  # where an adapter begins to act differs from path to path
        return min(common_prefix(self.front.ids, path.ids), path.most)

    def run(self, paths: Sequence[_Path], following: _Path | None) -> list[float]:
        """Score a slice, and keep what the path behind it begins with."""
        shared = min(self._usable(p) for p in paths)
        trie = self._trie(paths, shared)
        front = None
        if shared:
            assert self.front.keys_values is not None
            front = {self.slot: self.front.keys_values[:, :, : self.before + shared]}
        keep = 0 if following is None else common_prefix(paths[-1].ids, following.ids)
        keep = min(keep, len(paths[-1].ids)) if self.bank.carries_trie else 0
        recorded: list[tuple[Tensor, Tensor]] = []
        own = torch.from_numpy(trie.paths[-1][: keep - shared + (0 if shared else self.soft)])
        own = own.to(self.bank.device)

        def record(layer: int, k: Tensor, v: Tensor) -> None:
            recorded.append((k[own], v[own]))

        asked = _Asked.of(paths, trie)
        hidden = self.bank.forward(trie, record if keep > shared else None, front, read=asked.rows)
        self._keep(paths[-1].ids[:keep], shared, recorded)
        return self._sum(asked, hidden)

    def _trie(self, paths: Sequence[_Path], shared: int) -> tries.Trie:
        sequences = [tries.Sequence(tuple(p.ids[shared:].tolist()), slot=self.slot) for p in paths]
        if not shared:
            return self.bank.trie(sequences)
        return tries.Trie.build(sequences, prefix={self.slot: self.before + shared})

    def _keep(self, ids: np.ndarray, shared: int, recorded: list[tuple[Tensor, Tensor]]) -> None:
        """The front of the next slice: what stood in front of this one, and what it recorded."""
        if not recorded:
            length = min(len(ids), shared)
            kept = self.front.keys_values
            kept = kept[:, :, : self.before + length] if length and kept is not None else None
            self.front = _Front(ids[:length], kept)
            return
        if len({k.shape for k, _ in recorded} | {v.shape for _, v in recorded}) > 1:
            self.front = _Front(ids[:0])  # layers of different widths: nothing is kept
            return
        fresh = torch.stack([torch.stack(pair) for pair in recorded])
        if shared:
            assert self.front.keys_values is not None
            before: Tensor | None = self.front.keys_values[:, :, : self.before + shared]
        else:
            before = self.prefix
        if before is not None:
            fresh = torch.cat([before.to(fresh), fresh], 2)
        self.front = _Front(ids, fresh)

    def _sum(self, asked: _Asked, hidden: Tensor) -> list[float]:
        """Sum the log-probabilities of each path's targets; hidden states of the rows asked."""
        head = self.bank.head(self.slot)
        found = np.empty(len(asked.place), dtype=np.float64)
        order = np.argsort(asked.place, kind="stable")
        sorted_place = asked.place[order]
        for low in range(0, len(hidden), LOGIT_ROWS):
            chunk = hidden[low : low + LOGIT_ROWS]
            a, b = np.searchsorted(sorted_place, [low, low + len(chunk)])
            edges = order[a:b]
            logits = head.logits(chunk).float()
            total = torch.logsumexp(logits, -1)
            at = torch.from_numpy(asked.place[edges] - low).to(hidden.device)
            target = torch.from_numpy(asked.targets[edges]).to(hidden.device)
            found[edges] = (logits[at, target] - total[at]).double().cpu().numpy()
        return np.add.reduceat(found, np.cumsum([0, *asked.counts[:-1]])).tolist()
