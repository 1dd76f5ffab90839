"""A process of `rung` on the host of a Ray actor: its output, its end, signals to it.

Nothing here needs Ray but `address`: the class is what Ray makes an actor of.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from signal import SIG_UNBLOCK, SIGINT, SIGTERM, pthread_sigmask
from typing import Any

NEWS_SECONDS = 0.5  # that output is waited for before it is said that there is none
AT_ONCE = 4  # calls of one process: a signal need not wait for what is awaited
PR_SET_PDEATHSIG = 1


class HostProcess:
    """One process of `rung`, on the host of the Ray actor that this is."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []
        self._said: list[tuple[int, bytes]] = []
        self._changed = threading.Condition()

    def address(self) -> tuple[str, int]:
        """The host's address, and a port that is free there."""
        from ray.util import get_node_ip_address

        with socket.socket() as free:
            free.bind(("", 0))
            return get_node_ip_address(), free.getsockname()[1]

    def begin(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: str
    ) -> str | None:
        """Run `rung ARGUMENTS` in a folder -> what is wrong with it, or None."""
        # Ray blocks it in its own processes, and a process inherits what is blocked.
        pthread_sigmask(SIG_UNBLOCK, {SIGINT})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rung", *arguments], cwd=folder, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                env={**os.environ, **environment}, preexec_fn=ends_with_parent(),
            )  # fmt: skip
        except OSError as fault:
            return f"{socket.gethostname()}: {fault.strerror}: {fault.filename}"
        for number, pipe in ((1, self._process.stdout), (2, self._process.stderr)):
            self._readers.append(threading.Thread(target=self._read, args=(number, pipe), daemon=True))
            self._readers[-1].start()
        return None

    def _read(self, number: int, pipe: Any) -> None:
        while part := pipe.read1(1 << 16):
            with self._changed:
                self._said.append((number, part))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def news(self, seconds: float = NEWS_SECONDS) -> tuple[list[tuple[int, bytes]], int | None]:
        """What was written since the last call, (1 or 2 for the stream, bytes), and the exit code.

        Waits for either so long; the code comes when all has been read.
        """
        assert self._process is not None
        until = time.monotonic() + seconds
        with self._changed:
            while not self._said and any(r.is_alive() for r in self._readers):
                if not self._changed.wait(max(0.0, until - time.monotonic())):
                    break
            found, self._said = self._said, []
            ended = not found and not any(r.is_alive() for r in self._readers)
        return found, self._process.wait() if ended else None

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


def pass_on(number: int, part: bytes) -> None:
    """Write what a process wrote, to the stream of that number (1 or 2) of this one."""
    stream = sys.stdout if number == 1 else sys.stderr
    stream.buffer.write(part)
    stream.flush()


def ends_with_parent() -> Callable[[], None] | None:
    """What a new process calls so that the system ends it with its parent, also by SIGKILL (prctl(2));
    None where the system cannot."""
    return _ends_with_parent if sys.platform == "linux" else None


def _ends_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGTERM)
