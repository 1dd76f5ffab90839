"""What a tracker must say."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rung.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run whose figures are to be kept.

    Attributes:
        name: of the model it makes. id: of the run in the store.
        folder: of the run, where a tracker may keep files.
        settings: all knobs by name.
        at: optimiser steps that a run which is resumed has done; figures after it are told again.
    """

    name: str
    id: str
    folder: Path
    settings: Mapping[str, Any]
    at: int = 0


class Tracker(ABC):
    """Writes the figures of one run. What it raises never stops a training: it is told no more.

    Attributes:
        summary: one line for help and tables.
        package: what it imports and Rung does without. install: what to tell pip for it.
    """

    summary: ClassVar[str]
    package: ClassVar[str] = ""
    install: ClassVar[str] = ""

    def __init__(self, name: str):
        self.name = name

    def check(self) -> None:
        """Refuse before anything is loaded, if it cannot work here.

        Raises:
            ConfigError: saying what to do.
        """
        if self.package and importlib.util.find_spec(self.package) is None:
            raise ConfigError(
                f"--track {self.name} needs the package {self.package}: pip install '{self.install}'"
            )

    @abstractmethod
    def open(self, run: TrackedRun) -> None:
        """A run begins, or goes on after `run.at` steps."""

    @abstractmethod
    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures after a step, by names such as `train/loss` and `validation/loss`."""

    def close(self, status: str, figures: Mapping[str, float]) -> None:
        """The run ended as succeeded, interrupted or failed; its last figures, such as `test/loss`."""
        return
