"""Where Rung keeps things on this machine: `RUNG_HOME`, by default `~/.rung`."""

from __future__ import annotations

import os
from pathlib import Path

from rung.errors import PlaceError


def home() -> Path:
    """The folder of everything Rung keeps; created when first asked for.

    Raises:
        PlaceError: when it cannot be created.
    """
    try:
        path = Path(os.environ.get("RUNG_HOME") or Path.home() / ".rung").expanduser()
    except RuntimeError:  # ~NAME of nobody
        raise PlaceError("RUNG_HOME names the home of nobody: set it to a folder") from None
    return _made(path)


def folder(name: str) -> Path:
    """A folder below home: `models`, `runs` or `cache`."""
    return _made(home() / name)


def _made(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise PlaceError(
            f"cannot create {path} ({fault.strerror}): set RUNG_HOME to a folder you may write"
        ) from None
    return path
