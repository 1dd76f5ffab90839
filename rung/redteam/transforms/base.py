"""What a transformation must say: the turns that a prompt becomes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar


class Transform(ABC):
    """One way to wrap a prompt. Instances hold no state.

    Attributes:
        summary: one line for docs.
    """

    summary: ClassVar[str]

    def __init__(self, name: str):
        self.name = name

    @abstractmethod
    def turns(self, prompt: str) -> tuple[str, ...]:
        """What the user says, turn by turn; the model answers between them."""
