"""The head seam for labels: a classifier in the place of the output layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.backbone import Backbone


@dataclass(frozen=True)
class Asked:
    """What is to be classified: the rendered prompt, and its last user message for other encoders."""

    ids: tuple[int, ...]
    text: str = ""


class Classifier:
    """Answers with one of `labels`, never by generating."""

    labels: tuple[str, ...]

    def probabilities(self, backbone: Backbone, asked: Sequence[Asked]) -> Tensor:
        """(N, labels), each row summing to 1; one batched pass over the frozen base."""
        raise NotImplementedError

    def parameters(self) -> dict[str, Tensor]:
        """What was learned, by name."""
        raise NotImplementedError
