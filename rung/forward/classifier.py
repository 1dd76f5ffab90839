"""The head seam for labels: a classifier in the place of the output layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.backbone import Backbone
    from rung.types import Prompt


class Classifier:
    """Answers with one of `labels`, never by generating."""

    labels: tuple[str, ...]

    def probabilities(self, backbone: Backbone, slot: int, prompts: Sequence[Prompt]) -> Tensor:
        """(N, labels), each row summing to 1; one batched pass over the base.

        Args:
            slot: of the adapter that the classifier belongs to, for those that read its states.
        """
        raise NotImplementedError

    def parameters(self) -> dict[str, Tensor]:
        """What was learned, by name."""
        raise NotImplementedError
