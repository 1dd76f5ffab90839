"""Log-probabilities and cross-entropy over the edges of a trie, in chunks that never hold all logits.

The gradient with respect to the hidden states (and, for a trained head, its weight) is formed while a
chunk's logits are at hand, as in the fused kernels of Liger (arXiv 2410.10989). The cross-entropy forms
it in its forward pass. `edge_logprobs` cannot, since what is made of the log-probabilities is not known
by then: its backward pass is the same cross-entropy, each edge weighted by its own derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rung.forward import token_rows
from rung.forward.backbone import ModelHead
from rung.forward.trie import Trie

# Probabilities (n, V) -> which of them may be drawn, (n, V) of bool.
Keep = Callable[[Tensor], Tensor]

CHUNK = 1 << 23  # logits held at once; 32 MiB in float32, which stays near the caches


def cross_entropy(
    bank: Any, trie: Trie, hidden: Tensor, slot: int, accuracy: bool = False
) -> tuple[Tensor, float]:
    """Sum the weighted cross-entropy of a trie's edges through a slot's head, in one pass.

    Args:
        hidden: (T, d) from `bank.forward(trie)`.
        slot: whose head to use; all edges of the trie belong to it.
        accuracy: also count edges whose target is the likeliest token.

    Returns:
        the sum, a differentiable scalar, and the weight of the edges whose target is the likeliest.
    """
    head = bank.head(slot)
    if isinstance(head, ModelHead):
        found, best = _through_model(head, trie, hidden, _Shape(None, 1.0))
        weight = trie.weight.to(found.device, found.dtype)
        return -(weight * found).sum(), float((weight * best).sum())
    args, shape = _edges_of(head, trie, hidden)
    weight = trie.weight.to(hidden.device, _exact(hidden.dtype))
    total, correct = _CrossEntropy.apply(*args, weight, shape, accuracy)
    return total, float(correct)


def edge_logprobs(
    bank: Any,
    trie: Trie,
    hidden: Tensor,
    slot: int,
    temperature: float = 1.0,
    keep: Keep | None = None,
) -> Tensor:
    """Compute log-probabilities (E,) of a trie's edges, differentiable once, in float32 or better.

    Args:
        hidden, slot: as for `cross_entropy`.
        temperature: divides the logits, as in drawing.
        keep: what can be drawn, as in drawing; the targets count among it in any case, so that one
            which falls out of it when the weights have moved keeps a finite value.
    """
    shape = _Shape(None, 1.0, temperature, keep)
    head = bank.head(slot)
    if isinstance(head, ModelHead):
        return _through_model(head, trie, hidden, shape)[0]
    args, own = _edges_of(head, trie, hidden)
    return _LogProbs.apply(*args, replace(own, temperature=temperature, keep=keep))


@dataclass(frozen=True)
class _Shape:
    """What a base, and a way to draw, do to raw logits.

    Attributes:
        ids: (N,) tokens with rows of their own in the output layer, None where there are none.
    """

    softcap: float | None
    scale: float
    temperature: float = 1.0
    keep: Keep | None = None
    ids: Tensor | None = None

    def logits(self, raw: Tensor) -> Tensor:
        """In float32 or better, and in memory of its own where `back` needs the raw ones."""
        out = raw.to(_exact(raw.dtype))
        if self.scale != 1.0:
            out = out * self.scale
        if self.softcap:
            out = torch.tanh(out / self.softcap) * self.softcap
        return out if self.temperature == 1.0 else out / self.temperature

    def cut(self, logits: Tensor, at: Tensor, to: Tensor) -> Tensor:
        """Put what cannot be drawn out of reach, other than the targets `to` of the rows `at`."""
        if self.keep is None:
            return logits
        kept = self.keep(torch.softmax(logits, -1))
        kept[at, to] = True
        return logits.masked_fill(~kept, float("-inf"))

    def back(self, grad: Tensor, raw: Tensor) -> Tensor:
        """The gradient of the raw logits."""
        if self.temperature != 1.0:
            grad = grad / self.temperature
        if self.softcap:
            grad = grad * (1 - torch.tanh(raw.to(grad.dtype) * self.scale / self.softcap) ** 2)
        return grad * self.scale if self.scale != 1.0 else grad


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _taken(trie: Trie, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States (S, d) where edges start, and each edge's state and target."""
    sources, which = torch.unique_consecutive(trie.source, return_inverse=True)
    taken = hidden.index_select(0, sources.to(hidden.device))
    return taken, which.to(hidden.device), trie.target.to(hidden.device)


def _through_model(head: ModelHead, trie: Trie, hidden: Tensor, shape: _Shape) -> tuple[Tensor, Tensor]:
    """Log-probabilities (E,) of edges, and whether each target is the likeliest token, for an output
    layer that only the model itself can apply. A chunk's logits are computed again for its gradient."""
    taken, which, target = _taken(trie, hidden)
    step = max(1, CHUNK // head.backbone.vocabulary)
    picked, best = [], []
    for first in range(0, len(taken), step):
        edges = (which >= first) & (which < first + step)
        at, to = which[edges] - first, target[edges]

        def chunk(states: Tensor, at: Tensor = at, to: Tensor = to) -> tuple[Tensor, Tensor]:
            logits = shape.cut(shape.logits(head.logits(states)), at, to)
            own = logits[at, to]
            return own - torch.logsumexp(logits, 1)[at], own >= logits.amax(1)[at]

        found: Any = checkpoint(chunk, taken[first : first + step], use_reentrant=False)
        picked.append(found[0])
        best.append(found[1])
    return torch.cat(picked), torch.cat(best)


def _edges_of(head: Any, trie: Trie, hidden: Tensor) -> tuple[tuple[Any, ...], _Shape]:
    """States where edges start, the head with the rows of added tokens or None, and each edge's state
    and target."""
    taken, *edges = _taken(trie, hidden)
    rows = head.rows
    output, ids = (None, None) if rows is None else (rows.output, rows.index(hidden.device))
    return (taken, head.weight, head.bias, output, *edges), _Shape(head.softcap, head.scale, ids=ids)


def _chunks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor | None, which: Tensor,
    shape: _Shape,
) -> Iterator[tuple[slice, Tensor, Tensor]]:  # fmt: skip
    """Yield some states at a time: which, their raw logits, and the edges that start there."""
    step = max(1, CHUNK // weight.shape[0])
    for first in range(0, len(hidden), step):
        part = slice(first, first + step)
        raw = F.linear(hidden[part], weight, bias)
        if output is not None and shape.ids is not None:
            raw = token_rows.join(raw, F.linear(hidden[part], output), shape.ids)
        yield part, raw, (which >= first) & (which < first + step)


@dataclass
class _Gradients:
    """Gradients of states, head weight, bias and rows of added tokens, None for what is frozen."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    output: Tensor | None

    @property
    def each(self) -> tuple[Tensor | None, ...]:
        return self.hidden, self.weight, self.bias, self.output

    @property
    def wanted(self) -> bool:
        return any(g is not None for g in self.each)

    def add(self, grad: Tensor, part: slice, args: tuple[Any, ...], shape: _Shape) -> None:
        """Add what follows from the gradient of some states' raw logits, (n, W).

        Args:
            args: states, weight and rows of added tokens, the last two in the states' precision.
        """
        hidden, weight, output = args
        own = None
        if output is not None and shape.ids is not None:
            grad, own = token_rows.part(grad, len(weight), shape.ids)
        if self.hidden is not None:
            torch.mm(grad, weight, out=self.hidden[part])
            if own is not None:
                self.hidden[part].addmm_(own, output)
        if self.weight is not None:
            self.weight.addmm_(grad.t().to(self.weight.dtype), hidden[part].to(self.weight.dtype))
        if self.bias is not None:
            self.bias += grad.sum(0).to(self.bias.dtype)
        if self.output is not None and own is not None:
            self.output.addmm_(own.t().to(self.output.dtype), hidden[part].to(self.output.dtype))


def _weighted(
    args: tuple[Any, ...], edge_weight: Tensor, shape: _Shape, wants: tuple[bool, ...], accuracy: bool
) -> tuple[Tensor, Tensor, _Gradients]:
    """The sum of edge_weight * -log softmax(head(hidden[which]))[target], and its gradients."""
    hidden, weight, bias, output, which, target = args
    grads = _Gradients(
        *(torch.zeros_like(t) if w else None for t, w in zip(args[:4], wants, strict=True))
    )
    exact = _exact(hidden.dtype)
    total = torch.zeros((), dtype=exact, device=hidden.device)
    correct = torch.zeros((), dtype=exact, device=hidden.device)
    per_source = torch.zeros(len(hidden), dtype=exact, device=hidden.device)
    per_source.index_add_(0, which, edge_weight)
    here = weight.to(hidden.dtype), None if output is None else output.to(hidden.dtype)
    for part, raw, edges in _chunks(hidden, here[0], bias, here[1], which, shape):
        at, to, w = which[edges] - part.start, target[edges], edge_weight[edges]
        logits = shape.cut(shape.logits(raw), at, to)
        picked = logits[at, to]
        peak = logits.amax(1, keepdim=True)
        if accuracy:
            correct += (w * (picked >= peak[at, 0])).sum()
        exp = logits.sub_(peak).exp_()  # logits are not needed again
        norm = exp.sum(1, keepdim=True)
        log_norm = (norm.log() + peak)[:, 0]
        total += (w * (log_norm[at] - picked)).sum()
        if not grads.wanted:
            continue
        grad = exp.mul_(per_source[part, None] / norm)
        grad.index_put_((at, to), -w, accumulate=True)
        grads.add(shape.back(grad, raw).to(hidden.dtype), part, (hidden, *here), shape)
    return total, correct, grads


class _CrossEntropy(torch.autograd.Function):
    """(hidden, weight, bias, output, which, target, edge_weight, shape, accuracy) -> (sum, correct)."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, output, which, target, edge_weight, shape, accuracy):
        args = (hidden, weight, bias, output, which, target)
        total, correct, grads = _weighted(args, edge_weight, shape, ctx.needs_input_grad[:4], accuracy)
        ctx.grads = grads
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    def backward(ctx, upstream, _):
        kept, ctx.grads = ctx.grads, None
        grads = [g if g is None else g.mul_(upstream) for g in kept.each]
        return *grads, None, None, None, None, None


class _LogProbs(torch.autograd.Function):
    """(hidden, weight, bias, output, which, target, shape) -> (E,) log softmax(head(hidden[which]))
    [target]."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, output, which, target, shape):
        found = torch.empty(len(which), dtype=_exact(hidden.dtype), device=hidden.device)
        here = weight.to(hidden.dtype), None if output is None else output.to(hidden.dtype)
        for part, raw, edges in _chunks(hidden, here[0], bias, here[1], which, shape):
            at = which[edges] - part.start
            logits = shape.cut(shape.logits(raw), at, target[edges])
            found[edges] = logits[at, target[edges]] - torch.logsumexp(logits, 1)[at]
        ctx.save_for_backward(hidden, weight, bias, output, which, target)
        ctx.shape = shape
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        _, _, grads = _weighted(
            ctx.saved_tensors, -upstream, ctx.shape, ctx.needs_input_grad[:4], False
        )
        return *grads.each, None, None, None
