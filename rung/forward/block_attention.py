"""Attention over a trie on a CPU: dense pieces of the visibility rule, many in one call of the kernel.

The row is cut into blocks of consecutive tokens. All that a block can see is its own tokens, the
ancestors of its first token, and what its slots put in front. Blocks of about the same size go through
plain products or torch's flash kernel together: a call costs more than the few keys of a short branch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK_TOKENS = 64  # near a root; a block may be as long as what stands before it,
MAX_BLOCK_TOKENS = 256  # up to this
MAX_DENSE_KEYS = 192  # of blocks that go together; above, the kernel is faster than plain products
CALL_SCORES = 1 << 13  # scores that cost as much as a call
MAX_JOINED_KEYS = 1024  # of blocks that go together: they are copied, and so are their masks


@dataclass(frozen=True)
class Block:
    """Queries [first, last) and the ranges of keys that they can see between them."""

    first: int
    last: int
    keys: tuple[tuple[int, int], ...]

    @property
    def length(self) -> int:
        return self.last - self.first

    @cached_property
    def width(self) -> int:
        return sum(b - a for a, b in self.keys)


Visible = Callable[[Block], np.ndarray]  # (queries, keys), True where seen


class Heads(NamedTuple):
    """How many key heads there are, and query heads to each."""

    keys: int
    groups: int

    @classmethod
    def of(cls, q: Tensor, k: Tensor) -> Heads:
        return cls(k.shape[1], q.shape[1] // k.shape[1])


def cut(start: np.ndarray, end: np.ndarray, depth: np.ndarray, in_front: int) -> list[Block]:
    """Cut the row into blocks of whole segments where they fit, and find each block's keys.

    A segment is a run in which each token is the parent of the next.
    """
    own_end, before = end[in_front:], depth[in_front:]
    if not in_front:
        before = before - before.min()  # what stands in front may be met apart, and is no key here
    length = len(own_end)
    # A token starts a segment where the token before it ended a branch.
    heads = [0] + [i for i in range(1, length) if own_end[i - 1] == i] + [length]
    cuts = [0]

    def room() -> int:
        """The first token that does not fit into the block that began last."""
        return cuts[-1] + max(BLOCK_TOKENS, min(MAX_BLOCK_TOKENS, int(before[cuts[-1]])))

    for a, b in zip(heads[:-1], heads[1:], strict=True):
        if b > room() and a > cuts[-1]:
            cuts.append(a)
        while b > room():
            cuts.append(room())
    if cuts[-1] != length:
        cuts.append(length)
    blocks = []
    for first, last in zip(cuts[:-1], cuts[1:], strict=True):
        front = (start[:in_front] < last) & (end[:in_front] > first)
        path = own_end[:first] > first
        seen = np.concatenate([front, path, np.ones(last - first, dtype=bool)])
        blocks.append(Block(first, last, _ranges(seen)))
    return blocks


def _ranges(chosen: np.ndarray) -> tuple[tuple[int, int], ...]:
    """The runs of True as (start, stop)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return tuple((int(a), int(b)) for a, b in edges.reshape(-1, 2))


class Alone:
    """One block: its tokens as they stand, its keys expanded over the heads that share them."""

    def __init__(self, block: Block):
        self.block, self.tokens = block, slice(block.first, block.last)

    def queries(self, rows: Tensor, heads: Heads, padding: float | None = None) -> Tensor:
        """(T, H * hd) -> (groups, kv_heads, Lq, hd)."""
        own = rows[self.tokens].view(self.block.length, heads.keys, heads.groups, -1)
        return own.permute(2, 1, 0, 3)

    def keys(self, rows: Tensor, heads: Heads) -> Tensor:
        """(K, kv_heads * hd) -> (groups, kv_heads, Lk, hd)."""
        parts = [rows[a:b] for a, b in self.block.keys]
        seen = parts[0] if len(parts) == 1 else torch.cat(parts)
        seen = seen.view(len(seen), heads.keys, -1).transpose(0, 1)
        return seen.expand(heads.groups, -1, -1, -1)

    def put(self, part: Tensor, into: Tensor) -> None:
        """What `queries` are, into the rows that they came from."""
        into[self.tokens] = part.permute(2, 1, 0, 3).reshape(self.block.length, -1)

    def add(self, part: Tensor, into: Tensor) -> None:
        """What `keys` are, onto the rows that they came from."""
        summed, at = part.sum(0).transpose(0, 1).flatten(1), 0
        for a, b in self.block.keys:
            into[a:b] += summed[at : at + b - a]
            at += b - a

    def mask(self, visible: Visible, heads: Heads, dtype: torch.dtype) -> Tensor | None:
        """(1, 1, Lq, Lk) of 0 and -inf, or None where plain causal attention is meant."""
        seen = visible(self.block)
        if seen.shape[0] == seen.shape[1] and bool((seen == np.tri(len(seen), dtype=bool)).all()):
            return None
        return _infinities(seen, dtype)[None, None]


class Several:
    """n blocks padded to Lq queries and Lk keys, heads that share keys as one list of queries."""

    def __init__(self, blocks: Sequence[Block]):
        self.blocks = blocks
        self.size = len(blocks), max(b.length for b in blocks), max(b.width for b in blocks)
        count, length, width = self.size
        queries, keys = np.zeros((count, length), np.int64), np.zeros((count, width), np.int64)
        real = np.zeros((count, length), dtype=bool)
        for i, block in enumerate(blocks):
            queries[i, : block.length] = np.arange(block.first, block.last)
            keys[i, : block.width] = np.concatenate([np.arange(a, b) for a, b in block.keys])
            real[i, : block.length] = True
        self._queries = torch.from_numpy(queries.reshape(-1))
        self._keys = torch.from_numpy(keys.reshape(-1))
        self._real = torch.from_numpy(np.flatnonzero(real))
        self._padding = torch.from_numpy(np.flatnonzero(~real))
        self._tokens = self._queries[self._real]

    def queries(self, rows: Tensor, heads: Heads, padding: float | None = None) -> Tensor:
        """(T, H * hd) -> (n, kv_heads, groups * Lq, hd); what is no query is `padding` where given."""
        picked = rows.index_select(0, self._queries)
        if padding is not None:
            picked.index_fill_(0, self._padding, padding)
        split = picked.view(*self.size[:2], heads.keys, heads.groups, -1)
        return split.permute(0, 2, 3, 1, 4).flatten(2, 3)

    def keys(self, rows: Tensor, heads: Heads) -> Tensor:
        """(K, kv_heads * hd) -> (n, kv_heads, Lk, hd)."""
        count, _, width = self.size
        return rows.index_select(0, self._keys).view(count, width, heads.keys, -1).transpose(1, 2)

    def put(self, part: Tensor, into: Tensor) -> None:
        """What `queries` are, into the rows that they came from."""
        count, length, _ = self.size
        split = part.unflatten(2, (-1, length)).permute(0, 3, 1, 2, 4)
        flat = split.reshape(count * length, -1)
        if len(self._padding):
            flat = flat.index_select(0, self._real)
        into.index_copy_(0, self._tokens, flat)

    def add(self, part: Tensor, into: Tensor) -> None:
        """What `keys` are, onto the rows that they came from."""
        into.index_add_(0, self._keys, part.transpose(1, 2).reshape(len(self._keys), -1))

    def mask(self, visible: Visible, heads: Heads, dtype: torch.dtype) -> Tensor:
        """(n, 1, groups * Lq, Lk) of 0 and -inf; what is no query sees a key, to stay finite."""
        count, length, width = self.size
        seen = np.zeros((count, length, width), dtype=bool)
        for i, block in enumerate(self.blocks):
            seen[i, : block.length, : block.width] = visible(block)
            seen[i, block.length :, 0] = True
        mask = _infinities(seen, dtype)[:, None].expand(-1, heads.groups, -1, -1)
        return mask.reshape(count, 1, heads.groups * length, width)


def _infinities(seen: np.ndarray, dtype: torch.dtype) -> Tensor:
    """0 where something is seen, -inf elsewhere."""
    unseen = torch.from_numpy(~seen)
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(unseen, float("-inf"))


def together(blocks: Sequence[Block]) -> list[Alone | Several]:
    """Blocks of about the same size in one call, the smallest first."""
    groups: list[list[Block]] = []
    for block in sorted(blocks, key=lambda b: (b.width, b.length)):
        if groups and _fit([*groups[-1], block]):
            groups[-1].append(block)
        else:
            groups.append([block])
    return [Alone(g[0]) if len(g) == 1 else Several(g) for g in groups]


def _fit(group: list[Block]) -> bool:
    """Whether the last of a group costs less there, all padded to the largest, than by itself."""
    *others, last = group
    more = _padded(group) - _padded(others)
    return last.width <= MAX_JOINED_KEYS and more <= last.length * last.width + CALL_SCORES


def _padded(group: list[Block]) -> int:
    return len(group) * max(b.length for b in group) * max(b.width for b in group)


class Flash:
    """torch's flash kernel: q (B, H, Lq, hd), k and v (B, H, Lk, hd)."""

    @staticmethod
    def forward(q, k, v, mask, scaling, causal=True):
        """-> as q, and what the backward pass needs: the logarithms of the sums, (B, H, Lq).

        Args:
            causal: what no mask means; else everything is seen.
        """
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, mask is None and causal, attn_mask=mask, scale=scaling
        )

    @staticmethod
    def backward(grad, q, k, v, out, log_sums, mask, scaling):
        """-> gradients of q, k and v."""
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad, q, k, v, out(), log_sums, 0.0, mask is None, attn_mask=mask, scale=scaling
        )


class Dense:
    """The same by plain products, which keeps the probabilities: faster where keys are few."""

    @staticmethod
    def forward(q, k, v, mask, scaling):
        own = q.dtype
        q, k, v = (wide(x) for x in (q, k, v))
        scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)).mul_(scaling)
        scores = scores.view(*q.shape[:3], -1).add_(mask)
        shares = torch.softmax(scores, -1).flatten(0, 1)
        return torch.bmm(shares, v.flatten(0, 1)).view_as(q).to(own), shares

    @staticmethod
    def backward(grad, q, k, v, out, shares, mask, scaling):
        flat, q, k, v = (wide(x).flatten(0, 1) for x in (grad, q, k, v))
        inner = torch.bmm(flat, v.transpose(1, 2))
        inner = torch._softmax_backward_data(inner, shares, -1, shares.dtype).mul_(scaling)
        parts = (
            torch.bmm(inner, k),
            torch.bmm(inner.transpose(1, 2), q),
            torch.bmm(shares.transpose(1, 2), flat),
        )
        return tuple(part.unflatten(0, grad.shape[:2]).to(grad.dtype) for part in parts)


def wide(x: Tensor) -> Tensor:
    """In float32 where it has less, so that sums and scores are not rounded on the way."""
    return x if x.dtype.itemsize >= 4 else x.float()


def kernel(call: Alone | Several) -> Any:
    """The faster one."""
    return Dense if isinstance(call, Several) and call.size[2] <= MAX_DENSE_KEYS else Flash


class Attention(torch.autograd.Function):
    """All calls of a pass, with one backward that adds in place.

    q (1, H, T, hd), k and v (1, Hkv, K, hd) -> as q. Through autograd each call's part of the keys
    would cost a full-size zero tensor.
    """

    @staticmethod
    def forward(ctx, q, k, v, scaling, calls, masks):  # noqa: D102
        heads, rows = Heads.of(q, k), [by_token(x) for x in (q, k, v)]
        out, kept = torch.empty_like(rows[0]), []
        for call, mask in zip(calls, masks, strict=True):
            parts = (call.queries(rows[0], heads), *(call.keys(x, heads) for x in rows[1:]))
            part, rest = kernel(call).forward(*parts, mask, scaling)
            call.put(part, out)
            kept.append(rest)
        out = _heads(out, q)
        ctx.save_for_backward(q, k, v, out)
        ctx.rest = scaling, calls, masks, kept
        return out

    @staticmethod
    def backward(ctx, grad):  # noqa: D102
        q, k, v, out = ctx.saved_tensors
        scaling, calls, masks, kept = ctx.rest
        heads, (upstream, given, *rows) = Heads.of(q, k), [by_token(x) for x in (grad, out, q, k, v)]
        grads = [torch.empty_like(rows[0]), torch.zeros_like(rows[1]), torch.zeros_like(rows[2])]
        for call, mask, rest in zip(calls, masks, kept, strict=True):
            parts = kernel(call).backward(
                call.queries(upstream, heads, padding=0.0), call.queries(rows[0], heads),
                *(call.keys(x, heads) for x in rows[1:]),
                functools.partial(call.queries, given, heads), rest, mask, scaling,
            )  # fmt: skip
            call.put(parts[0], grads[0])
            call.add(parts[1], grads[1])
            call.add(parts[2], grads[2])
        return *(_heads(g, x) for g, x in zip(grads, (q, k, v), strict=True)), None, None, None


def by_token(x: Tensor) -> Tensor:
    """(1, heads, T, hd) -> (T, heads * hd)."""
    return x[0].transpose(0, 1).reshape(x.shape[2], -1)


def _heads(rows: Tensor, like: Tensor) -> Tensor:
    """(T, heads * hd) -> (1, heads, T, hd)."""
    return rows.view(1, like.shape[2], like.shape[1], -1).transpose(1, 2)
