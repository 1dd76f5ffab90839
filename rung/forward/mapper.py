"""The seam of models that map records: which known record is a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Match:
    """A known record that a new one may be, and how likely that is."""

    id: str
    name: str
    confidence: float


class Mapper(Protocol):
    """Maps records of one system to those of another, which it keeps.

    Attributes:
        threshold: the confidence below which a record is none of them.
        sure: the confidence from which a match is sure.
    """

    threshold: float
    sure: float

    def matches(
        self, bank: Any, model: Any, records: Sequence[tuple[str, str]]
    ) -> list[tuple[Match, ...]]:
        """Find the likeliest known records of each new one, likeliest first.

        Args:
            bank, model: the bank and the served model of it, whose seams a reranker is asked through.
            records: (name, description) of each.
        """
        ...
