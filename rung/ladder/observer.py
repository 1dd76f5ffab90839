"""What a climb's observer is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rung.train.observers import Observer

if TYPE_CHECKING:
    from rung.ladder.task_context import TaskContext
    from rung.store.climbs import ClimbRecord, RungRecord


class ClimbObserver(Observer):
    """Told what a training's observer is told, and how the climb goes."""

    def opened(self, bench: TaskContext, climb: ClimbRecord, warnings: Sequence[str]) -> None:
        """Data and base are there."""

    def table(self, records: Sequence[RungRecord]) -> None:
        """A rung changed."""
