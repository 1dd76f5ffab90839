"""The parts of a study, one after the other."""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch

from rung.evals.basecard.facts import facts, peak_bytes
from rung.evals.basecard.progress import Progress
from rung.evals.basecard.reading import reading
from rung.evals.basecard.recall import recall
from rung.evals.basecard.shots import shots
from rung.evals.basecard.speed import speed
from rung.evals.basecard.subject import Subject
from rung.evals.basecard.variety import variety
from rung.version import __version__

Part = Callable[[Subject, bool, Progress], dict[str, Any]]

PARTS: dict[str, Part] = {
    "facts": lambda subject, quick, progress: facts(subject),
    "speed": speed,
    "reading": reading,
    "recall": recall,
    "shots": shots,
    "variety": variety,
}


class Watcher(Protocol):
    """Told how a study goes."""

    def begin(self, part: str) -> None: ...
    def progress(self, part: str, share: float) -> None: ...
    def found(self, part: str, figures: dict[str, Any]) -> None: ...


class Nobody:
    """Is told nothing."""

    def begin(self, part: str) -> None: ...
    def progress(self, part: str, share: float) -> None: ...
    def found(self, part: str, figures: dict[str, Any]) -> None: ...


def study(subject: Subject, quick: bool = False, watcher: Watcher | None = None) -> dict[str, Any]:
    """Measure a base.

    Args:
        quick: fewer and shorter of everything; figures are then coarser, not different in kind.

    Returns:
        plain data: who and where, then the figures of each of `PARTS` by its name.
    """
    watcher = watcher or Nobody()
    began = time.perf_counter()
    card: dict[str, Any] = {
        "base": {"name": subject.info.name, "spec": subject.info.spec, "digest": subject.info.digest},
        "rung": __version__,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": _machine(subject),
        "dtype": subject.dtype,
        "quantize": subject.quantize,
        "quick": quick,
    }
    for name, part in PARTS.items():
        watcher.begin(name)
        card[name] = part(subject, quick, partial(watcher.progress, name))
        if name == "speed":  # what reading and writing took, before the long contexts
            card[name]["peak_bytes"] = peak_bytes(subject)
        watcher.found(name, card[name])
    card["seconds"] = time.perf_counter() - began
    return card


def _machine(subject: Subject) -> str:
    device = subject.bank.device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' if threads > 1 else ''} of {_processor()}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
