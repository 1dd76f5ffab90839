"""The process: whose it is, and OpenMP's helper threads.

Every thread that computes keeps helpers of its own.

GNU's OpenMP lets helpers that wait for work look for it in a loop, so that the next operation begins at
once, but only while the process has no more of them than cores. A second thread that has ever computed
ends that, and every operation of the first then wakes its helpers by way of the system: a token of a
small base took twice as long (libgomp's `gomp_throttled_spin_count_var`).
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

runs_command = False  # whether it runs a command of Rung's; else it is a program that imports Rung
HARD = 2  # omp_pause_hard, OpenMP 5.0, section 3.6


def release() -> None:
    """End the calling thread's helpers; its next computation raises new ones."""
    import torch

    for library in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(str(library)).omp_pause_resource_all(HARD)
