"""Formulas of training by rewards: ratios, clipping, divergences and advantages.

Tokens of all answers stand in one row, (M,); `owner` says which answer each belongs to. Conventions
are TRL's 1.16 for GRPO and RLOO and OpenRLHF's 0.11 for PPO; where they differ, docs/alignment-rl.md
says which is followed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

STD_FLOOR = 1e-4  # added to deviations of rewards, as TRL does

Scores = Sequence[Sequence[float | None]]  # of the answers of each group; None: not scored


def importance(new: Tensor, old: Tensor, owner: Tensor, level: str) -> Tensor:
    """Ratios of probabilities now and when the tokens were drawn, (M,).

    Args:
        level: `token`; `sequence`, the geometric mean of an answer's ratios at each of its tokens
            (GSPO, arXiv 2507.18071); or `product`, the ratio of whole answers.
    """
    gap = new - old
    if level == "token":
        return gap.exp()
    count = int(owner.max()) + 1 if len(owner) else 0
    sums = gap.new_zeros(count).index_add(0, owner, gap)
    if level == "sequence":
        lengths = gap.new_zeros(count).index_add(0, owner, torch.ones_like(gap))
        sums = sums / lengths.clamp(min=1)
    return sums.exp()[owner]


def clipped(ratio: Tensor, advantages: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Clip the surrogate: it as a loss, (M,), and where its gradient is taken away, (M,) of bool."""
    bounded = ratio.clamp(1 - low, 1 + high)
    loss = -torch.minimum(ratio * advantages, bounded * advantages)
    away = ((ratio < 1 - low) & (advantages < 0)) | ((ratio > 1 + high) & (advantages > 0))
    return loss, away.detach()


def divergence(new: Tensor, reference: Tensor, kind: str) -> Tensor:
    """Estimate the KL divergence from the reference at each token, (M,).

    Args:
        kind: `k1`, the log-ratio; `k2`, half its square; `k3`, which is never negative
            (http://joschu.net/blog/kl-approx.html).
    """
    gap = new - reference
    if kind == "k1":
        return gap
    if kind == "k2":
        return 0.5 * gap**2
    return (-gap).exp() - 1 + gap


def group_advantages(scores: Scores, scale: str) -> list[np.ndarray]:
    """Rewards less their group's mean, over a deviation, (G,) for each group.

    What was not scored is left out of mean and deviation and gets 0; a group with fewer than two
    scored answers is all 0.

    Args:
        scale: by the deviation of the `group`, of the `batch`, or `none`.
    """
    every = np.array([s for group in scores for s in group if s is not None], dtype=np.float64)
    found = []
    for group in scores:
        known = np.array([s is not None for s in group])
        values = np.array([0.0 if s is None else s for s in group], dtype=np.float64)
        advantages = np.zeros(len(group))
        if known.sum() >= 2:
            advantages[known] = values[known] - values[known].mean()
            deviation = values[known].std(ddof=1) if scale == "group" else every.std(ddof=1)
            if scale != "none":
                advantages /= deviation + STD_FLOOR
        found.append(advantages)
    return found


def leave_one_out(scores: Scores, normalise: bool) -> list[np.ndarray]:
    """Rewards less the mean of the group's other ones, (G,) for each group (arXiv 2402.14740).

    Args:
        normalise: to mean 0 and deviation 1 over all scored answers.
    """
    found, taught = [], []
    for group in scores:
        known = np.array([s is not None for s in group])
        values = np.array([0.0 if s is None else s for s in group], dtype=np.float64)
        advantages = np.zeros(len(group))
        n = int(known.sum())
        if n >= 2:
            advantages[known] = values[known] - (values[known].sum() - values[known]) / (n - 1)
        found.append(advantages)
        taught.append(known if n >= 2 else np.zeros(len(group), bool))
    every = np.concatenate([a[k] for a, k in zip(found, taught, strict=True)]) if found else np.empty(0)
    if not normalise or len(every) < 2:
        return found
    mean, deviation = every.mean(), every.std(ddof=1) + STD_FLOOR
    return [np.where(k, (a - mean) / deviation, 0.0) for a, k in zip(found, taught, strict=True)]


def normalisers(lengths: Sequence[np.ndarray], how: str, longest: int) -> list[np.ndarray]:
    """What each answer's summed token losses are multiplied by, (G,) for each group.

    The sum over all of them is the loss of a step.

    Args:
        lengths: tokens of each answer that count, 0 for those that are masked; (G,) for each group.
        how: `dapo`, by the tokens of the step; `grpo`, by the answer's own, then by the answers;
            `bnpo`, by the tokens of the group, then by the groups; `dr_grpo`, by answers times
            `longest`.
    """
    answers = sum(len(group) for group in lengths)
    if how == "dapo":
        total = max(1.0, float(sum(group.sum() for group in lengths)))
        return [np.where(group > 0, 1.0 / total, 0.0) for group in lengths]
    if how == "grpo":
        return [np.where(g > 0, 1.0 / (np.maximum(g, 1) * answers), 0.0) for g in lengths]
    if how == "bnpo":
        each = [max(1.0, float(group.sum())) * len(lengths) for group in lengths]
        return [np.where(g > 0, 1.0 / size, 0.0) for g, size in zip(lengths, each, strict=True)]
    return [np.where(group > 0, 1.0 / (answers * longest), 0.0) for group in lengths]


def advantages_and_returns(
    values: np.ndarray, rewards: np.ndarray, gamma: float, lam: float
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantage estimation of one answer (arXiv 1506.02438).

    Args:
        values: (n,), of the states before each token; behind the last it is 0.
        rewards: (n,), of each token.

    Returns:
        advantages and returns, (n,) each.
    """
    advantages = np.zeros(len(values))
    following, coming = 0.0, 0.0
    for t in range(len(values) - 1, -1, -1):
        delta = rewards[t] + gamma * following - values[t]
        coming = delta + gamma * lam * coming
        advantages[t], following = coming, values[t]
    return advantages, advantages + values


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error of values, the larger of it with and without clipping, (M,)."""
    plain = (values - returns) ** 2
    bounded = (old + (values - old).clamp(-clip, clip) - returns) ** 2
    return 0.5 * torch.maximum(plain, bounded)


def whitened(groups: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Arrays moved to mean 0 and scaled to variance 1 over all of them."""
    every = np.concatenate(groups)
    mean, deviation = every.mean(), np.sqrt(max(float(every.var()), 1e-8))
    return [(group - mean) / deviation for group in groups]
