"""What a loss may ask of one forward pass: log-probabilities, cross-entropy and states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rung.forward import loss
from rung.forward.trie import Sequence as Tokens

if TYPE_CHECKING:
    from rung.forward.bank import Bank
    from rung.forward.features import Boundary


@dataclass
class Loss:
    """Sums over rows: divide by their weight for means.

    Attributes:
        total: differentiable scalar.
        metrics: sums too, by names that begin with neither train nor validation nor test.
    """

    total: Tensor
    weight: float
    metrics: dict[str, float] = field(default_factory=dict)


class Policy:
    """One forward pass of a slot over token sequences, run when it is first asked for.

    Whatever is computed from `logprobs` with torch may be differentiated: the backbone runs once, the
    output layer once more in the backward pass. What sequences share is computed once.

    Args:
        slot: whose adapter computes, -1 for the bare base.
        boundary: kept states that the pass starts from; None runs the whole base.
        whole: states at every token, for `states`; else only where something is predicted.

    Attributes:
        edges: for each sequence, the places in `logprobs` of its supervised tokens, in their order.
    """

    def __init__(
        self,
        bank: Bank,
        sequences: Sequence[Tokens],
        slot: int,
        boundary: Boundary | None = None,
        whole: bool = False,
    ):
        self.bank, self.slot, self.boundary, self.whole = bank, slot, boundary, whole
        self.trie = bank.trie([s.at(slot) for s in sequences], prune=not whole)
        self.edges = self.trie.edges

    @cached_property
    def hidden(self) -> Tensor:
        """States after the final norm, (T, d)."""
        run = self.bank.forward if self.boundary is None else self.boundary.forward
        return run(self.trie, edges_only=not self.whole)

    def cross_entropy(self, accuracy: bool = False) -> tuple[Tensor, float]:
        """Sum the cross-entropy of all supervised tokens, in one pass through the output layer.

        Returns:
            the differentiable sum, and how many tokens were the likeliest if `accuracy` asks for it.
        """
        return loss.cross_entropy(self.bank, self.trie, self.hidden, self.slot, accuracy)

    def logprobs(self, temperature: float = 1.0, keep: loss.Keep | None = None) -> Tensor:
        """Compute the log-probability of every edge, (E,), in float32 or better; differentiable.

        Args:
            temperature, keep: of the distribution that tokens are drawn from, see `edge_logprobs`.
        """
        return loss.edge_logprobs(self.bank, self.trie, self.hidden, self.slot, temperature, keep)

    def per_sequence(self) -> list[Tensor]:
        """Give each sequence its supervised tokens' log-probabilities, (n,) in their order."""
        logprobs = self.logprobs()
        return [logprobs[torch.from_numpy(edges).to(logprobs.device)] for edges in self.edges]

    def sums(self) -> Tensor:
        """Add up the log-probabilities of each sequence's supervised tokens, (sequences,)."""
        logprobs = self.logprobs()
        owner = np.repeat(np.arange(len(self.edges)), [len(e) for e in self.edges])
        places = torch.from_numpy(np.concatenate(self.edges)).to(logprobs.device)
        into = logprobs.new_zeros(len(self.edges))
        return into.index_add(0, torch.from_numpy(owner).to(logprobs.device), logprobs[places])

    def states(self, at: Sequence[int]) -> Tensor:
        """Take the state of one token of each sequence, (sequences, d); negative counts from the end.

        Raises:
            ValueError: when the pass was not made `whole`.
        """
        if not self.whole:
            raise ValueError("states are there only after a whole pass: say reads_states")
        rows = [path[i] for path, i in zip(self.trie.rows, at, strict=True)]
        return self.hidden[torch.tensor(rows, device=self.hidden.device)]

    def rewards(self) -> Tensor:
        """Score each sequence at its last token by the slot's head, (sequences,); differentiable.

        A slot without a head, such as that of the bare base, finds all of them equally good: 0.

        Raises:
            ValueError: when the pass was not made `whole`.
        """
        adapter = self.bank.adapters.get(self.slot)
        if adapter is None or adapter.reward is None:
            exact = torch.promote_types(self.bank.dtype, torch.float32)
            return torch.zeros(len(self.edges), dtype=exact, device=self.bank.device)
        return adapter.reward.of(self.states([-1] * len(self.edges)))
