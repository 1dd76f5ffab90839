"""Tools whose schemas end any answer soon, so that a base of random weights calls them rightly."""

from __future__ import annotations

from pathlib import Path

SWITCH = '''
from typing import Literal

CALLED = 0

def switch(lamp: Literal["red", "green", "blue"], on: bool = True) -> str:
    """Switch a lamp.

    Args:
        lamp: which one,
            of three.
        on: whether it is to shine.
    """
    return f"{lamp} is {'on' if on else 'off'}"

def fail(why: Literal["a", "b"]):
    """Fail."""
    raise ValueError(f"no\\n{why}")

def _hidden():
    return 1
'''


def switches(folder: Path) -> str:
    """The path of a file of tools."""
    path = folder / "switches.py"
    path.write_text(SWITCH)
    return str(path)
