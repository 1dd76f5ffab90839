"""A process that scores answers with somebody's Python, with limits on time and memory.

The process reads one JSON line for each answer and writes one line back. It is started anew after an
answer that took too long or too much memory; that answer is not scored. Rung itself is not imported
there.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rung.errors import ConfigError

SECONDS = 5.0  # for one answer
START_SECONDS = 60.0  # for imports of the scoring module
END_SECONDS = 5.0  # between the closing of a process's pipe and its end
MEGABYTES = 2048  # of address space
MAX_LINE = 1 << 20  # bytes of a reply
RUNNER = Path(__file__).with_name("runner.py")


class Sandbox:
    """Process that scores; made when it is first asked, and ended by `close`.

    Args:
        setup: what the process is told first: `module` or `file` or `source`, and `function`.
        seconds: for one answer. megabytes: of address space.
        closed: no environment, an empty folder, no files written, no other processes.
        note: told of an answer that could not be scored, once for each kind of fault.
    """

    def __init__(
        self,
        setup: dict[str, Any],
        *,
        seconds: float = SECONDS,
        megabytes: int = MEGABYTES,
        closed: bool = False,
        note: Callable[[str], None] = lambda text: None,
    ):
        self.setup = {**setup, "megabytes": megabytes, "closed": closed}
        self.seconds, self.note = seconds, note
        self.faults: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._told: set[str] = set()
        self._rest = b""

    def score(self, calls: Sequence[dict[str, Any]]) -> list[float | None]:
        """Score each call's arguments; None where the function gave none, failed, or took too long.

        Raises:
            ConfigError: when the function cannot be loaded at all.
        """
        self.faults = []
        return [self._one(call) for call in calls]

    def start(self) -> None:
        """Start the process and load the function. Raises ConfigError saying why it cannot be."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._folder = tempfile.TemporaryDirectory(prefix="rung-reward-")
        closed = self.setup["closed"]
        flags = ["-I"] if closed else []
        self._process = subprocess.Popen(
            [sys.executable, *flags, "-c", RUNNER.read_text(encoding="utf-8")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd=self._folder.name if closed else None, env={} if closed else dict(os.environ),
            start_new_session=True,
        )  # fmt: skip
        self._rest = b""
        reply = self._ask(self.setup, START_SECONDS)
        if reply is None or "fault" in reply:
            self.close()
            why = reply["fault"] if reply else "its process ended or took too long to start"
            raise ConfigError(f"the reward's Python cannot be loaded: {why}")

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _one(self, call: dict[str, Any]) -> float | None:
        self.start()
        reply = self._ask(call, self.seconds)
        if reply is None:
            ended = self._process is None or self._process.poll() is not None
            self.close()
            self._tell("died" if ended else f"took longer than {self.seconds:g} s")
            return None
        if "fault" in reply:
            self._tell(f"failed: {reply['fault']}")
            return None
        return reply.get("reward")

    def _tell(self, what: str) -> None:
        self.faults.append(what)
        kind = what.partition(":")[0]
        if kind not in self._told:
            self._told.add(kind)
            self.note(f"the reward's Python {what}; such answers are not scored")

    def _ask(self, message: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """Send a line and read the one that answers it; None where none comes in time."""
        assert self._process is not None and self._process.stdin is not None
        until = time.monotonic() + seconds
        try:
            self._process.stdin.write(json.dumps(message, default=str).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
            return None
        line = self._line(until)
        try:
            found = json.loads(line) if line else None
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def _line(self, until: float) -> bytes | None:
        assert self._process is not None and self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        with selectors.DefaultSelector() as ready:
            ready.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                left = until - time.monotonic()
                if left <= 0 or len(self._rest) > MAX_LINE or not ready.select(left):
                    return None
                found = os.read(pipe, 1 << 16)
                if not found:  # it ended: wait, so that poll() says so
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(END_SECONDS)
                    return None
                self._rest += found
        line, _, self._rest = self._rest.partition(b"\n")
        return line
