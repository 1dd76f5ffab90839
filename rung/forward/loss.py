"""Linear cross-entropy over the edges of a trie, in chunks that never hold all logits.

The gradient with respect to the hidden states (and, for a trained head, its weight) is formed in the
forward pass while a chunk's logits are at hand, as in the fused kernels of Liger (arXiv 2410.10989).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rung.forward.trie import Trie

CHUNK = 1 << 23  # logits held at once; 32 MiB in float32, which stays near the caches


@dataclass
class Loss:
    """Sums over a batch. Divide by `weight` for the mean per token."""

    total: Tensor  # scalar, differentiable
    weight: float
    correct: float = 0.0  # weight of the edges whose target is the likeliest token


def edge_loss(bank: Any, trie: Trie, hidden: Tensor, slot: int, accuracy: bool = False) -> Loss:
    """Cross-entropy of a trie's edges through a slot's head.

    Args:
        hidden: (T, d) from `bank.forward(trie)`.
        slot: whose head to use; all edges of the trie belong to it.
        accuracy: also count edges whose target is the likeliest token.
    """
    head = bank.head(slot)
    sources, which = torch.unique_consecutive(trie.source, return_inverse=True)
    taken = hidden.index_select(0, sources.to(hidden.device))  # (S, d)
    args = [t.to(hidden.device) for t in (which, trie.target, trie.weight)]
    total, correct = _LinearCrossEntropy.apply(
        taken, head.weight, head.bias, *args, head.softcap, head.scale, accuracy
    )
    return Loss(total, float(trie.weight.sum()), float(correct))


class _LinearCrossEntropy(torch.autograd.Function):
    """sum over edges of weight * -log softmax(head(hidden[which]))[target]."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, which, target, edge_weight, softcap, scale, accuracy):
        grad_hidden = torch.zeros_like(hidden) if hidden.requires_grad else None
        grad_weight = torch.zeros_like(weight) if weight.requires_grad else None
        trained_bias = bias is not None and bias.requires_grad
        grad_bias = torch.zeros_like(bias) if trained_bias else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        correct = torch.zeros((), dtype=torch.float32, device=hidden.device)
        weight_here = weight.to(hidden.dtype)
        per_source = torch.zeros(len(hidden), dtype=torch.float32, device=hidden.device)
        per_source.index_add_(0, which, edge_weight)
        step = max(1, CHUNK // weight.shape[0])
        for first in range(0, len(hidden), step):
            rows = hidden[first : first + step]
            raw = torch.nn.functional.linear(rows, weight_here, bias)
            logits = _shape(raw, softcap, scale)
            edges = (which >= first) & (which < first + step)
            at, to = which[edges] - first, target[edges]
            w = edge_weight[edges]
            picked = logits[at, to]
            peak = logits.amax(1, keepdim=True)
            if accuracy:
                correct += (w * (picked >= peak[at, 0])).sum()
            exp = logits.sub_(peak).exp_()  # logits are not needed again
            norm = exp.sum(1, keepdim=True)
            log_norm = (norm.log() + peak)[:, 0]
            total += (w * (log_norm[at] - picked)).sum()
            if grad_hidden is None and grad_weight is None and grad_bias is None:
                continue
            grad = exp.mul_(per_source[first : first + step, None] / norm)
            grad.index_put_((at, to), -w, accumulate=True)
            grad = _shape_back(grad, raw, softcap, scale).to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, weight_here, out=grad_hidden[first : first + step])
            if grad_weight is not None:
                grad_weight.addmm_(grad.t().to(weight.dtype), rows.to(weight.dtype))
            if grad_bias is not None:
                grad_bias += grad.sum(0).to(bias.dtype)
        ctx.grads = (grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    def backward(ctx, upstream, _):
        grads = [g.mul_(upstream) if g is not None else None for g in ctx.grads]
        ctx.grads = None
        return *grads, None, None, None, None, None, None


def _shape(raw: Tensor, softcap: float | None, scale: float) -> Tensor:
    """The base's own way from raw logits to logits, in float32 and in memory of its own if changed."""
    out = raw.float() if raw.dtype != torch.float32 or not softcap else raw
    if scale != 1.0:
        out = out * scale
    return torch.tanh(out / softcap) * softcap if softcap else out


def _shape_back(grad: Tensor, raw: Tensor, softcap: float | None, scale: float) -> Tensor:
    if softcap:
        grad = grad * (1 - torch.tanh(raw.float() * scale / softcap) ** 2)
    return grad * scale if scale != 1.0 else grad
