"""The process's high-water mark of memory.

Linux lets a process set its own mark back (`/proc/self/clear_refs`, proc(5)), so that a part of its
life can be told from what came before; elsewhere the mark is that of the whole life.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path


def reset_high_water() -> bool:
    """Set the mark back to what is resident now; False where that is not allowed."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return _marked() > 0


def high_water() -> int:
    """The mark in bytes; 0 where the system tells none."""
    return _marked() or _life()


def _marked() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _life() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
