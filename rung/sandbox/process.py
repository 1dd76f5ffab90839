"""A process that answers lines of JSON: started when asked, ended when it is late or says too much.

`Process(runner, setup).ask({...}, seconds=5)` writes one line and reads the one that answers it. The
runner is a file whose text is run behind that of `limits.py`; Rung itself is not imported there.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rung.errors import ConfigError

START_SECONDS = 60.0  # for imports of the user's module
MEGABYTES = 2048  # of address space
MAX_LINE = 1 << 20  # bytes of a reply
LIMITS = Path(__file__).with_name("limits.py")


class Process:
    """A limited process, made when it is first asked, and ended by `close`.

    Args:
        runner: a Python file that reads its setup and then calls as lines of JSON, and writes a line of
            JSON with the call's `id` for each.
        setup: what the process is told first.
        called: what is run there, for messages, such as "the reward's Python".
        megabytes: of address space.
        closed: no environment, an empty folder, no files but Python's own, none written, no other
            processes.

    Attributes:
        late: whether the last call without a reply had none in time; else the process ended, or wrote
            more than a reply may hold.
    """

    def __init__(
        self,
        runner: Path,
        setup: dict[str, Any],
        called: str,
        *,
        megabytes: int = MEGABYTES,
        closed: bool = False,
    ):
        self.setup = {**setup, "megabytes": megabytes, "closed": closed}
        self._source = LIMITS.read_text("utf-8") + runner.read_text("utf-8").replace(
            "from __future__ import annotations\n", ""
        )
        self._called = called
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._rest = b""
        self._asked = 0  # the id of the last call
        self.late = False

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> dict[str, Any]:
        """Start the process, where it does not run, and return what it says of its setup.

        Raises:
            ConfigError: saying why the user's Python cannot be loaded.
        """
        if self.alive:
            return {}
        self.close()
        self._folder = tempfile.TemporaryDirectory(prefix="rung-sandbox-")
        closed = self.setup["closed"]
        flags = ["-I"] if closed else []
        self._process = subprocess.Popen(
            [sys.executable, *flags, "-c", self._source],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            cwd=self._folder.name if closed else None, env={} if closed else dict(os.environ),
            start_new_session=True,
        )  # fmt: skip
        self._rest = b""
        reply = self._exchange(self.setup, START_SECONDS)
        if reply is None or "fault" in reply:
            self.close()
            why = reply["fault"] if reply else "its process ended or took too long to start"
            raise ConfigError(f"{self._called} cannot be loaded: {why}")
        return reply

    def ask(self, call: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """Have a call answered; None where no reply comes in time, and the process is to be closed."""
        return self._exchange(call, seconds)

    def close(self) -> None:
        """End the process, and whatever it has started."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _exchange(self, message: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """Send a line and read the one that answers it; None where none comes in time."""
        assert self._process is not None and self._process.stdin is not None
        self._asked += 1
        self.late = False
        until = time.monotonic() + seconds
        try:
            line = json.dumps({**message, "id": self._asked}, default=str)
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return None
        while (found := self._line(until)) is not None:
            with contextlib.suppress(ValueError):
                reply = json.loads(found)
                # What the user's code writes into the pipe itself answers nothing.
                if isinstance(reply, dict) and reply.get("id") == self._asked:
                    return reply
        return None

    def _line(self, until: float) -> bytes | None:
        assert self._process is not None and self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        with selectors.DefaultSelector() as ready:
            ready.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                left = until - time.monotonic()
                if left <= 0 or not ready.select(left):
                    self.late = True
                    return None
                if len(self._rest) > MAX_LINE:
                    return None
                found = os.read(pipe, 1 << 16)
                if not found:
                    return None
                self._rest += found
        line, _, self._rest = self._rest.partition(b"\n")
        return line
