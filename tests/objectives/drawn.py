"""Made-up draws of answers, and what objectives make of them on log-probabilities that are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from rung import objectives
from rung.objectives.drawer import Drawn
from rung.objectives.tokens import DrawnTokens


@dataclass(kw_only=True)
class Case:
    """Groups of answers: lengths, scores and which were cut off, with log-probabilities (B, T)."""

    lengths: list[list[int]]
    scores: list[list[float | None]]
    cut: list[list[bool]]
    new: Tensor
    old: Tensor
    reference: Tensor

    @property
    def mask(self) -> Tensor:
        """(B, T): where there are tokens."""
        flat = [n for group in self.lengths for n in group]
        return torch.tensor([[float(t < n) for t in range(self.new.shape[1])] for n in flat]).double()

    def groups(self) -> list[list[Drawn]]:
        rows, found = iter(self.old), []
        for lengths, cut in zip(self.lengths, self.cut, strict=True):
            found.append(
                [
                    Drawn(
                        ids=(5,) * n,
                        own=(True,) * n,
                        logprobs=next(rows)[:n].numpy(),
                        text="x",
                        truncated=c,
                    )
                    for n, c in zip(lengths, cut, strict=True)
                ]
            )
        return found

    def flat(self, padded: Tensor) -> list[np.ndarray]:
        """(B, T) -> (M,) for each group."""
        rows = iter(padded.detach())
        return [np.concatenate([next(rows)[:n].numpy() for n in lengths]) for lengths in self.lengths]


@st.composite
def cases(draw: Any, least: int = 2) -> Case:
    groups = draw(st.integers(1, 3))
    size = draw(st.integers(least, 4))
    lengths = [[draw(st.integers(1, 5)) for _ in range(size)] for _ in range(groups)]
    score = st.one_of(st.none(), st.sampled_from([0.0, 1.0, 0.5, -2.0, 7.25]))
    scores = [[draw(score) for _ in range(size)] for _ in range(groups)]
    cut = [[draw(st.booleans()) for _ in range(size)] for _ in range(groups)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    width = max(n for group in lengths for n in group)

    def near(base: Tensor) -> Tensor:
        return base + 0.3 * torch.randn(base.shape, generator=generator, dtype=torch.float64)

    old = -2 + torch.randn(groups * size, width, generator=generator, dtype=torch.float64)
    return Case(lengths=lengths, scores=scores, cut=cut, new=near(old), old=old, reference=near(old))


def chosen(name: str, **settings: Any) -> Any:
    objective = objectives.get(name)
    return objective.configured(objective.Config(**{"reward": ["exact"], **settings}))


def ours(objective: Any, case: Case, source: Any = None) -> tuple[float, Tensor, dict]:
    """The loss, its gradient by the log-probabilities (B, T), and the metrics, of one step."""
    groups = case.groups()
    arrays = {"old": case.flat(case.old)}
    if objective.needs_reference:
        arrays["reference"] = case.flat(case.reference)
    arrays |= objective.weighed(source, None, groups, case.scores, arrays)
    new = case.new.clone().requires_grad_(True)
    at = [(i, t) for i, row in enumerate(case.mask) for t in range(int(row.sum()))]
    rows, columns = (torch.tensor(x) for x in zip(*at, strict=True))
    kept = {name: torch.from_numpy(np.concatenate(each)) for name, each in arrays.items()}
    tokens = DrawnTokens(new=new[rows, columns], owner=rows, edges=torch.arange(len(rows)), kept=kept)
    total, metrics = objective.surrogate(None, tokens)
    loss = total / len(groups)
    (gradient,) = torch.autograd.grad(loss, new, allow_unused=True)
    means = {name: value / len(groups) for name, value in metrics.items()}
    return float(loss.detach()), torch.zeros_like(new) if gradient is None else gradient, means
