"""Tools from a Python file: its functions, run in one process with limits.

    --tools tools.py

Each public function that the file defines is a tool. Its parameters' type hints make the schema, its
docstring the description. A process that took too long or too much memory is started anew; what the
file keeps in its variables is lost then.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rung.errors import ConfigError
from rung.sandbox.process import Process
from rung.tools.base import Limits, Result, Source

RUNNER = Path(__file__).with_name("runner.py")


class PythonFile(Source):
    """The functions of a file. Calls wait for one another, from any thread."""

    def __init__(self, path: Path, limits: Limits):
        self.path, self.limits = path, limits
        self.functions = []
        setup = {"file": str(path), "characters": limits.characters}
        self._process = Process(RUNNER, setup, f"{path}", megabytes=limits.megabytes)
        self._lock = threading.Lock()

    def open(self) -> None:
        if not self.path.is_file():
            raise ConfigError(f"--tools: there is no file {self.path}")
        with self._lock:
            if not self.functions:
                self.functions = self._process.start()["functions"]

    def call(self, name: str, arguments: Mapping[str, Any]) -> Result:
        with self._lock:
            try:
                self._process.start()
            except ConfigError as fault:
                return Result.fault(str(fault))
            call = {"name": name, "arguments": dict(arguments)}
            reply = self._process.ask(call, self.limits.seconds)
            if reply is None:
                self._process.close()
        if reply is None:
            late = self._process.late
            return Result.fault(f"took longer than {self.limits.seconds:g} s" if late else "died")
        if "fault" in reply:
            return Result.fault(str(reply["fault"]))
        return Result.of(str(reply.get("result")), self.limits.characters)

    def close(self) -> None:
        with self._lock:
            self._process.close()
