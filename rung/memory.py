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

ALONE = 1 << 20  # bytes from which a block is mapped by itself where freed memory is to be returned

_keeping = 0  # how many want freed memory kept, one within another
_returning = False


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


def trim() -> None:
    """Give what was freed back to the system, as far as the C library can be told to."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@contextlib.contextmanager
def keep_freed() -> Iterator[None]:
    """Have the C library keep what is freed until this ends, where it can be told to.

    A step frees what the next one needs again. Given back to the system in between, each page of it
    costs a fault, which is dear in virtual machines. One may stand within another.
    """
    global _keeping
    libc = _glibc()
    if libc is None or _returning:
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


def return_freed() -> None:
    """Have the C library give blocks of a megabyte or more back as soon as they are freed, for good.

    For what gathers large blocks and frees them between small ones that stay: their places could be
    used again for little else, and the process would grow. `keep_freed` does nothing from then on.
    """
    global _returning
    libc = _glibc()
    if libc is not None:
        libc.mallopt(MMAP, ALONE)
        libc.mallopt(TRIM, ALONE)
        _returning = True


@contextlib.contextmanager
def returning_freed() -> Iterator[None]:
    """`return_freed` until this ends: for coding a base, and for trainings that are to be small."""
    global _returning
    before = _returning
    return_freed()
    try:
        yield
    finally:
        _returning = before
        libc = _glibc()
        if libc is not None and not before:
            libc.mallopt(MMAP, LARGEST)
            libc.mallopt(TRIM, 2 * LARGEST)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if libc is not None and hasattr(libc, "malloc_trim") else None
