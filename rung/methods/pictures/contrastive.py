"""Contrastive training of two projections (CLIP, arXiv 2103.00020), on vectors computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from rung.errors import Interrupted
from rung.forward.towers import SIDES, Towers

FIRST_SHARPNESS, MAX_SHARPNESS = 1 / 0.07, 100.0  # as CLIP begins, and its bound
CHECK_EVERY = 10  # steps between looks at validation
PATIENCE = 15  # looks without a better one
DROPPED = 0.3  # share of an encoder's numbers that a step leaves out, against learning rows by heart


@dataclass(frozen=True)
class Pairs:
    """Vectors of pictures (n, d) and texts (n, e), row by row; alike (n, n): which belong together."""

    pictures: Tensor
    texts: Tensor
    alike: Tensor

    @classmethod
    def of(cls, pictures: Tensor, texts: Tensor, captions: Sequence[str], ids: Sequence[str]) -> Pairs:
        """Rows of one caption, or of one picture, belong together."""
        same = [[a == b or p == q for b, q in zip(captions, ids, strict=True)]
                for a, p in zip(captions, ids, strict=True)]  # fmt: skip
        return cls(pictures, texts, torch.tensor(same, dtype=torch.float32).view(len(ids), len(ids)))


def loss(pictures: Tensor, texts: Tensor, alike: Tensor, sharpness: Tensor) -> Tensor:
    """InfoNCE both ways; where several belong to one row, each is as good.

    Args:
        pictures, texts: (n, k), each of length 1. alike: (n, n) of 0 and 1, symmetric.
    """
    logits = sharpness * pictures @ texts.T
    wanted = alike / alike.sum(1, keepdim=True)
    return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2


@dataclass(kw_only=True)
class Training:
    """What is trained, and how.

    Attributes:
        width: of the shared space. steps: at most. batch: rows of a step. lr: of AdamW.
        decay: AdamW's weight decay.
    """

    width: int
    steps: int
    batch: int
    lr: float
    decay: float = 0.1


def train(
    pairs: Pairs, held: Pairs | None, how: Training, generator: Generator, stopping: Callable[[], bool]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The tensors of `rung.forward.towers.Towers`, the best on `held`, and figures.

    Raises:
        Interrupted: when `stopping` says so.
    """
    tensors, given = _fresh(pairs, how.width, generator)
    log_sharpness = torch.tensor([math.log(FIRST_SHARPNESS)], requires_grad=True)
    weights = [tensors[f"{side}_weight"].requires_grad_() for side in SIDES]
    free = {"params": [log_sharpness], "weight_decay": 0.0}
    decayed = {"params": weights, "weight_decay": how.decay}
    optimiser = torch.optim.AdamW([decayed, free], lr=how.lr)
    n, best, kept, stale, step = len(pairs.pictures), math.inf, None, 0, 0
    for step in range(1, how.steps + 1):
        if stopping():
            raise Interrupted
        rows = torch.randperm(n, generator=generator)[: how.batch]
        with torch.enable_grad():
            seen = [_projected(v[rows], w, generator) for v, w in zip(given, weights, strict=True)]
            value = loss(seen[0], seen[1], pairs.alike[rows][:, rows], log_sharpness.exp())
            optimiser.zero_grad()
            value.backward()
        optimiser.step()
        with torch.no_grad():
            log_sharpness.clamp_(max=math.log(MAX_SHARPNESS))
        if held is None or step % CHECK_EVERY:
            continue
        found = _held_loss(held, tensors, log_sharpness)
        if found < best:
            best, stale = found, 0
            kept = [w.detach().clone() for w in (*weights, log_sharpness)]
        elif (stale := stale + 1) >= PATIENCE:
            break
    final = kept or [w.detach() for w in (*weights, log_sharpness)]
    made = {name: t.detach() for name, t in tensors.items()}
    made |= {f"{side}_weight": final[i] for i, side in enumerate(SIDES)}
    made["sharpness"] = final[2].exp()
    figures = {"steps": float(step), "train_loss": float(value.detach())}
    return made, figures | ({} if held is None else {"validation_loss": best})


def _fresh(pairs: Pairs, width: int, generator: Generator) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Tensors to begin from, and the standardised vectors of both sides."""
    tensors: dict[str, Tensor] = {}
    given = []
    for side, vectors in zip(SIDES, (pairs.pictures, pairs.texts), strict=True):
        mean, scale = vectors.mean(0), vectors.std(0, correction=0).clamp(min=1e-6)
        d = vectors.shape[1]
        tensors |= {f"{side}_mean": mean, f"{side}_scale": scale}
        tensors[f"{side}_weight"] = torch.randn(width, d, generator=generator) * d**-0.5
        given.append((vectors - mean) / scale)
    return tensors, given


def _projected(vectors: Tensor, weight: Tensor, generator: Generator) -> Tensor:
    kept = torch.rand(vectors.shape, generator=generator) >= DROPPED
    return F.normalize(F.linear(vectors * kept, weight), dim=1)


def _held_loss(held: Pairs, tensors: dict[str, Tensor], log_sharpness: Tensor) -> float:
    towers = Towers(None, None, tensors)  # type: ignore[arg-type]  # no encoder is asked
    with torch.no_grad():
        seen = [
            towers.project(side, vectors)
            for side, vectors in zip(SIDES, (held.pictures, held.texts), strict=True)
        ]
        return float(loss(seen[0], seen[1], held.alike, log_sharpness.exp()))
