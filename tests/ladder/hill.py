"""A small hill to climb: words that tell two labels apart, a tiny base that has seen nothing, and a
watcher that keeps what a climb tells it.

A probe on such a base reads the words off its embeddings and is always right; asked as it is, the base
guesses.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rung.ladder.climb import climb
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.observer import ClimbObserver
from rung.ladder.task_context import TaskContext
from rung.store import Store
from rung.store.climbs import ClimbRecord, RungRecord

SCRATCH = "scratch:layers=2,width=32,heads=2,vocab=300,context=256"
KIND = ("sun", "warm", "bright", "calm", "gentle", "sweet")
CRUEL = ("rain", "cold", "dark", "loud", "harsh", "bitter")
REST = ("the", "a", "day", "was", "and", "very", "so", "it", "seemed", "to", "us", "then")


def write_words(path: Path, count: int = 160) -> Path:
    """Rows of six words, two of which say the label."""
    draw, known = random.Random(0), set()
    while len(known) < count:
        label = ("kind", "cruel")[len(known) % 2]
        words = draw.sample(KIND if label == "kind" else CRUEL, 2) + draw.sample(REST, 4)
        draw.shuffle(words)
        known.add((" ".join(words), label))
    lines = [json.dumps({"text": text, "label": label}) for text, label in sorted(known)]
    path.write_text("\n".join(lines))
    return path


def settings(path: Path, **more: Any) -> dict[str, Any]:
    return {
        "data": str(path), "base": SCRATCH, "dtype": "float32", "device": "cpu", "steps": 2,
        "validation": 0.2, "test": 0.2, **more,
    }  # fmt: skip


@dataclass
class Log(ClimbObserver):
    """Keeps what it is told; `at` is called with each stage."""

    at: Any = None
    bench: TaskContext | None = None
    climb: str = ""
    warnings: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def opened(self, bench: TaskContext, climb: ClimbRecord, warnings: Sequence[str]) -> None:
        self.bench, self.climb, self.warnings = bench, climb.id, list(warnings)

    def stage(self, text: str) -> None:
        self.stages.append(text)
        if self.at:
            self.at(text)

    def tried(self) -> list[str]:
        """The rungs that were begun, in order."""
        return [s.partition(":")[0] for s in self.stages if s.endswith(": beginning")]


def go(path: Path, log: Log | None = None, given: dict[str, Any] | None = None, **knobs: Any):
    """A climb of that name: (its record, its rungs by key)."""
    kept = {
        "requests": 10,
        "trials": 1,
        "only": ["zero_shot", "linear_probe", "lora"],
        "skip": ["lora-upper", "lora-int8", "linear_probe-minilm"],
        **knobs,
    }
    with Store.open() as store:
        record = climb("words", given or settings(path), ClimbKnobs(**kept), log or Log(), store)
        return record, rungs_of(store, record.id)


def rungs_of(store: Store, climb_id: str) -> dict[str, RungRecord]:
    return {r.key: r for r in store.climbs.rungs(climb_id)}
