"""The process's memory: its high-water mark, and what becomes of what is freed.

Linux lets a process set its own mark back (`/proc/self/clear_refs`, proc(5)), so that a part of its
life can be told from what came before; elsewhere the mark is that of the whole life.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

TRIM, MMAP = -1, -3  # mallopt's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD (mallopt(3))
LARGEST = 32 << 20  # bytes that glibc lets a block have which is not mapped by itself

_keeping = 0  # how many want freed memory kept, one within another


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


@contextlib.contextmanager
def keep_freed() -> Iterator[None]:
    """Have the C library keep what is freed until this ends, where it can be told to.

    A step frees what the next one needs again. Given back to the system in between, each page of it
    costs a fault, which is dear in virtual machines. One may stand within another.
    """
    global _keeping
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "malloc_trim"):  # glibc's
        yield
        return
    libc.mallopt(MMAP, LARGEST)
    libc.mallopt(TRIM, (1 << 31) - 1)
    _keeping += 1
    try:
        yield
    finally:
        _keeping -= 1
        if not _keeping:
            libc.mallopt(TRIM, 2 * LARGEST)
            libc.malloc_trim(0)
