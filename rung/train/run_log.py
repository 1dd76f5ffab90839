"""What every run keeps of itself: a heartbeat in the store, and its figures in log.jsonl."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rung.store import Store
from rung.train.observers import Observer, Step, Stop, Validation

BEAT_SECONDS = 10.0  # between two heartbeats


class Heartbeat(Observer):
    """Tells the store now and then that a run is alive, and learns whether it was cancelled there.

    A beat that fails, as on a store that is busy or away, is tried again when the next one is due.
    """

    def __init__(self, store: Store, run: str):
        self.store, self.run = store, run
        self._at = time.monotonic()
        self._cancelled = False

    def step(self, event: Step) -> None:
        if self._due():
            self._beat({"step": event.step, **event.metrics})

    def cancelled(self) -> bool:
        """Whether the run was cancelled in the store; asked there when a beat is due."""
        if self._due():
            self._beat()
        return self._cancelled

    def _due(self) -> bool:
        return time.monotonic() - self._at > BEAT_SECONDS

    def _beat(self, metrics: dict[str, Any] | None = None) -> None:
        self._at = time.monotonic()
        try:
            if metrics:
                self.store.runs.update(self.run, metrics=metrics)
            self._cancelled = self.store.runs.beat(self.run) == "cancelled"
        except Exception:  # noqa: S110 - a training of hours outlives a store that is away for a moment
            pass


class RunLog(Observer):
    """Writes each step and validation as a line of JSON."""

    def __init__(self, path: Path):
        self.path = path

    def begin(self, steps: int, at: int) -> None:
        """Forget what the log says of steps that are done again."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= at:
                    kept.append(line + "\n")
            except (ValueError, KeyError):
                continue  # a line that a crash cut short
        self.path.write_text("".join(kept), encoding="utf-8")

    def step(self, event: Step) -> None:
        self._write(event.entry())

    def validated(self, event: Validation) -> Stop | None:
        self._write(event.entry())
        return None

    def _write(self, entry: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
