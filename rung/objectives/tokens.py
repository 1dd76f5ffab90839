"""The drawn tokens of a micro-batch in one row, with what was kept of their drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rung.forward.policy import Policy
from rung.objectives.base import Row


@dataclass(frozen=True, kw_only=True)
class DrawnTokens:
    """M tokens of all answers of some rows, in the order of the policy's sequences.

    Attributes:
        new: (M,) log-probabilities now, differentiable.
        owner: (M,) which answer each belongs to.
        edges: (M,) where each stands among the policy's edges.
        kept: by name (M,), what the rows' `extra` holds of each token.
    """

    new: Tensor
    owner: Tensor
    edges: Tensor
    kept: dict[str, Tensor]

    @classmethod
    def of(cls, policy: Policy, rows: Sequence[Row], logprobs: Tensor) -> DrawnTokens:
        """Put together what a pass over rows gave, (E,), and what the rows hold."""
        edges = torch.from_numpy(np.concatenate(policy.edges)).to(logprobs.device)
        owner = np.repeat(np.arange(len(policy.edges)), [len(e) for e in policy.edges])
        names = [name for name, value in rows[0].extra.items() if isinstance(value, np.ndarray)]
        kept = {
            name: torch.from_numpy(np.concatenate([row.extra[name] for row in rows])).to(logprobs)
            for name in names
        }
        return cls(
            new=logprobs[edges], owner=torch.from_numpy(owner).to(logprobs.device), edges=edges,
            kept=kept,
        )  # fmt: skip

    def mean(self, figure: Tensor) -> float:
        """A figure (M,) as a sum that the step's rows make the mean over its tokens of."""
        return float((figure.detach() * self.kept["share"]).sum())
