"""What every run keeps of itself: a heartbeat in the store, figures in log.jsonl and in trackers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rung.errors import Interrupted
from rung.store import Store
from rung.trackers import TrackedRun, Tracker
from rung.train.observers import Made, Observer, Step, Stop, Validation

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


class Tracked(Observer):
    """Passes figures on to a tracker."""

    def __init__(self, tracker: Tracker, run: TrackedRun):
        self.tracker, self.run = tracker, run
        self.name = f"--track {tracker.name}"
        self._open = False

    def begin(self, steps: int, at: int) -> None:
        self.run = replace(self.run, at=at)
        self._ensure_open()

    def step(self, event: Step) -> None:
        figures = {
            **event.metrics, "lr": event.lr, "gradient_norm": event.gradient_norm,
            "tokens_per_second": event.tokens / max(event.seconds, 1e-9),
        }  # fmt: skip
        self.tracker.log(event.step, {f"train/{name}": value for name, value in figures.items()})

    def validated(self, event: Validation) -> Stop | None:
        figures = {f"validation/{name}": value for name, value in event.metrics.items()}
        self.tracker.log(event.step, figures)
        return None

    def finished(self, made: Made) -> None:
        self._ensure_open()  # a method that is fitted has no first step
        self.tracker.close("succeeded", _figures(made.metrics))

    def failed(self, fault: BaseException) -> None:
        if self._open:
            stopped = isinstance(fault, (Interrupted, KeyboardInterrupt))
            self.tracker.close("interrupted" if stopped else "failed", {})

    def _ensure_open(self) -> None:
        if not self._open:
            self.tracker.open(self.run)
            self._open = True


def _figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among a run's metrics, `test_loss` as `test/loss`."""
    found = {}
    for name, value in metrics.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            part, _, rest = name.partition("_")
            known = part in ("test", "validation") and rest
            found[f"{part}/{rest}" if known else f"run/{name}"] = float(value)
    return found
