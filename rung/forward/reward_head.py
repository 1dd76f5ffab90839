"""Reward head: one number for a text, a linear layer on the state of one token.

The token is the end of turn, for conversations and plain texts alike, in training and serving: where
a text does not end with it, it is appended. What a reward model answers hangs on that place, so it is
stored with the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rung.errors import ArtefactError

FILE = "reward_head.safetensors"
FINAL = "final"  # how the file names the states behind the final norm


@dataclass(kw_only=True)
class RewardHead:
    """The head of a reward model.

    Attributes:
        weight: (d,) float32, which training changes. bias: added to every reward; a comparison does
            not depend on it.
        token: id of the token at whose state the reward is read, the last of every sequence.
        boundary: states of the bare base that are read, see `LayerRange`; None: those behind the final
            norm of the adapter that has this head.
    """

    weight: Tensor
    token: int
    bias: float = 0.0
    boundary: int | None = None

    @classmethod
    def fresh(cls, width: int, token: int) -> RewardHead:
        """Make a head that finds all texts equally good."""
        return cls(weight=torch.zeros(width), token=token)

    def closed(self, ids: Sequence[int]) -> tuple[int, ...]:
        """End a text with the token at which its reward is read."""
        return tuple(ids) if len(ids) and ids[-1] == self.token else (*ids, self.token)

    def of(self, states: Tensor) -> Tensor:
        """Compute rewards from states, (N, d) -> (N,), in float32 or better; differentiable."""
        exact = torch.promote_types(states.dtype, torch.float32)
        return states.to(exact) @ self.weight.to(exact) + self.bias

    def write(self, folder: Path) -> None:
        """Write the head beside the adapter's own files."""
        from safetensors.torch import save_file

        boundary = FINAL if self.boundary is None else str(self.boundary)
        weight = self.weight.detach().cpu().float().contiguous().clone()
        save_file(
            {"weight": weight, "bias": torch.tensor([self.bias])}, folder / FILE,
            metadata={"token": str(self.token), "boundary": boundary},
        )  # fmt: skip

    @classmethod
    def read(cls, folder: Path, width: int, vocabulary: int, layers: int) -> RewardHead | None:
        """Read the head of a folder; None where it has none.

        Args:
            width, vocabulary, layers: of the base.

        Raises:
            ArtefactError: when it is damaged, or does not fit the base.
        """
        if not (folder / FILE).exists():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(folder / FILE, "pt") as file:
                about = dict(file.metadata() or {})
                weight, bias = file.get_tensor("weight").float(), file.get_tensor("bias")
            token = int(about["token"])
            boundary = None if about["boundary"] == FINAL else int(about["boundary"])
        except (SafetensorError, KeyError, ValueError) as fault:
            raise ArtefactError(f"{FILE} is damaged: {fault}") from None
        if (
            weight.shape != (width,)
            or not 0 <= token < vocabulary
            or not 0 <= (boundary or 0) <= layers
        ):
            raise ArtefactError(
                f"{FILE} does not fit this base: its weight is {tuple(weight.shape)}, it reads token "
                f"{token} at boundary {about['boundary']}"
            )
        if bias.shape != (1,) or not bool(torch.cat([weight, bias]).isfinite().all()):
            raise ArtefactError(f"{FILE} holds values that are not finite")
        return cls(weight=weight, token=token, bias=float(bias), boundary=boundary)
