"""Checkpoints: folders that are whole or absent, the last two kept, the newest whole one resumed."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from rung.artefacts import folders
from rung.errors import ArtefactError, StoreError

KEPT = 2  # checkpoints of a run
RENAMED = {"best_loss": "best_value", "first_loss": "first_value"}  # of State, before 0.2


@dataclass
class State:
    """All that a run needs to go on, beside its tensors.

    `step` counts finished optimiser steps. `best_value` is the best on validation of the metric that
    the objective chooses by, at `best_step`; `first_value` is the bare base's. `stale` counts
    validations since the best. `scale` multiplies the loss in float16. `rows` is the digest of the
    training rows in their order; empty where they are drawn, and in runs of before 0.2.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_value: float | None = None
    best_step: int = 0
    stale: int = 0
    scale: float = 1.0
    first_value: float | None = None
    finished: bool = False
    rows: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Checkpoint:
    """What was read back."""

    state: State
    adapter: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: dict[str, Tensor]
    source: dict[str, Tensor]


def save(
    folder: Path,
    state: State,
    adapter: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    best: dict[str, Tensor],
    source: dict[str, Tensor] | None = None,
) -> Path:
    """Write the checkpoint of `state.step` below `folder`, then forget older ones.

    Args:
        source: what the source of rows must know to give the same next ones.

    Raises:
        StoreError: when the disk is full, naming the bytes needed; older checkpoints stay.
    """
    from safetensors.torch import save_file

    groups = {"adapter": adapter, "optimizer": optimizer, "best": best, "source": source or {}}

    def fill(temporary: Path) -> None:
        for name, tensors in groups.items():
            if tensors:
                save_file(_plain(tensors), temporary / f"{name}.safetensors")
        (temporary / "state.json").write_text(json.dumps(asdict(state)))

    target = folder / f"step-{state.step:08d}"
    size = sum(t.numel() * t.element_size() for g in groups.values() for t in g.values())
    folders.write(target, fill, needs=size)
    for old in steps(folder)[:-KEPT]:
        folders.remove(old)
    return target


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}


def steps(folder: Path) -> list[Path]:
    """The checkpoints below a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if re.fullmatch(r"step-\d{8}", p.name))


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and what was wrong with newer ones."""
    damaged: list[str] = []
    for path in reversed(steps(folder)):
        try:
            folders.verify(path)
            return _read(path), damaged
        except (ArtefactError, StoreError) as fault:
            damaged.append(f"{path.name} is damaged ({fault})")
    return None, damaged


def _read(path: Path) -> Checkpoint:
    from safetensors.torch import load_file

    def tensors(name: str) -> dict[str, Tensor]:
        file = path / f"{name}.safetensors"
        return load_file(file) if file.exists() else {}

    values = folders.read_json(path / "state.json")
    state = State(**{RENAMED.get(name, name): value for name, value in values.items()})
    parts = (tensors(name) for name in ("adapter", "optimizer", "best", "source"))
    return Checkpoint(state, *parts)
