"""The process: whose it is, when it collects garbage, and OpenMP's helper threads.

Every thread that computes keeps helpers of its own.

GNU's OpenMP lets helpers that wait for work look for it in a loop, so that the next operation begins at
once, but only while the process has no more of them than cores. A second thread that has ever computed
ends that, and every operation of the first then wakes its helpers by way of the system: a token of a
small base took twice as long (libgomp's `gomp_throttled_spin_count_var`).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
from pathlib import Path

runs_command = False  # whether it runs a command of Rung's; else it is a program that imports Rung
IMPORTING = 50_000  # new objects between two collections of garbage, while modules are imported
USUAL = gc.get_threshold()  # the same otherwise, by generation
HARD = 2  # omp_pause_hard, OpenMP 5.0, section 3.6


def start_command() -> None:
    """Take the process for a command of Rung's, and have it collect garbage rarely while it imports.

    Modules are a million objects that stay; to walk them again and again, and once more before the
    process ends, took `rung plan` a quarter of its time.
    """
    global runs_command
    runs_command = True
    gc.set_threshold(IMPORTING, *USUAL[1:])
    atexit.register(gc.freeze)


def collect_as_usual() -> None:
    """Leave what a command has imported out of collections, which then come as often as in any program.

    Called before a model is built: what is frozen and lies in a cycle is never freed.
    """
    if runs_command and gc.get_threshold()[0] == IMPORTING:
        gc.freeze()
        gc.set_threshold(*USUAL)


def release() -> None:
    """End the calling thread's helpers; its next computation raises new ones."""
    import torch

    for library in (Path(torch.__file__).parent / "lib").glob("libgomp*.so*"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(str(library)).omp_pause_resource_all(HARD)
