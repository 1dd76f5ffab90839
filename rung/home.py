"""Where Rung keeps things on this machine: `RUNG_HOME`, by default `~/.rung`."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder of everything Rung keeps; created when first asked for."""
    path = Path(os.environ.get("RUNG_HOME") or Path.home() / ".rung").expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


def folder(name: str) -> Path:
    """A folder below home: `models`, `runs` or `cache`."""
    path = home() / name
    path.mkdir(parents=True, exist_ok=True)
    return path
