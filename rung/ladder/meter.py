"""What a stretch of work takes: seconds, peak memory of the process, and energy where it is counted.

Linux lets a process set its own high-water mark back (`/proc/self/clear_refs`, proc(5)); elsewhere a
thread looks at the resident memory some times a second. What earlier work freed is given back first,
so that it does not count. Energy comes from the counters of the processor's packages
(`/sys/class/powercap`) or from what `nvidia-smi` says of power.
"""

from __future__ import annotations

import contextlib
import gc
import shutil
import subprocess
import threading
import time
from pathlib import Path

import psutil
import torch

from rung.memory import high_water, reset_high_water, trim

POWERCAP = Path("/sys/class/powercap")
EVERY = 0.05  # seconds between looks at the memory
POWER_EVERY = 1.0  # and at the power


class Meter:
    """Measures from `__enter__` to `__exit__`.

    Attributes:
        seconds: of wall time. peak_bytes: the process's (or CUDA's) high-water mark meanwhile.
        joules: of the packages or GPUs, whoever else used them; None where nothing counts them.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.peak_bytes = 0
        self.joules: float | None = None

    def __enter__(self) -> Meter:
        self._end = threading.Event()
        self._watts: list[float] = []
        self._process = psutil.Process()
        give_back()
        self._marked = reset_high_water()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._counters = _energy()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self._end.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, self.peak())
        self.joules = self._spent()

    def peak(self) -> int:
        """The high-water mark so far."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
        mark = high_water() if self._marked else 0
        return max(mark, self.peak_bytes, self._process.memory_info().rss)

    def _look(self) -> None:
        smi = shutil.which("nvidia-smi") if torch.cuda.is_available() else None
        asked = 0.0
        while not self._end.wait(EVERY if not self._marked else POWER_EVERY / 4):
            self.peak_bytes = max(self.peak_bytes, self._process.memory_info().rss)
            if smi and time.monotonic() - asked > POWER_EVERY:
                asked = time.monotonic()
                self._watts += _gpu_watts(smi)
        if torch.cuda.is_available():
            self.peak_bytes = 0  # the device's memory is what counts there

    def _spent(self) -> float | None:
        if self._watts:
            return self.seconds * sum(self._watts) / len(self._watts)
        after = _energy()
        if not self._counters or not after:
            return None
        total = 0.0
        for path, (begun, wrap) in self._counters.items():
            if path in after:
                total += (after[path][0] - begun) % wrap
        return total / 1e6


def give_back() -> None:
    """Return what earlier work has freed to the system, so that it does not count for the next."""
    gc.collect()
    trim()


def _energy() -> dict[str, tuple[int, int]]:
    """Microjoules of each package, and where its counter begins anew; {} where none can be read."""
    found = {}
    for path in sorted(POWERCAP.glob("intel-rapl:?")) if POWERCAP.is_dir() else ():
        with contextlib.suppress(OSError, ValueError):
            wrap = int((path / "max_energy_range_uj").read_text())
            found[str(path)] = (int((path / "energy_uj").read_text()), wrap + 1)
    return found


def _gpu_watts(smi: str) -> list[float]:
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        command = [smi, "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return [sum(float(line) for line in done.stdout.split())]
    return []


def now() -> float:
    """Seconds on a clock that never goes back."""
    return time.perf_counter()
