"""A process that scores answers with somebody's Python, with limits on time and memory.

It is started anew after an answer that took too long or too much memory; that answer is not scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rung.sandbox.process import MEGABYTES, Process

SECONDS = 5.0  # for one answer
RUNNER = Path(__file__).with_name("runner.py")


class Sandbox:
    """Process that scores; made when it is first asked, and ended by `close`.

    Args:
        setup: what the process is told first: `module` or `file` or `source`, and `function`.
        seconds: for one answer. megabytes: of address space.
        closed: no environment, an empty folder, no files but Python's own, none written, no other
            processes.
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
        self.seconds, self.note = seconds, note
        self.faults: list[str] = []
        called = "the reward's Python"
        self._process = Process(RUNNER, setup, called, megabytes=megabytes, closed=closed)
        self._told: set[str] = set()

    def score(self, calls: Sequence[dict[str, Any]]) -> list[float | None]:
        """Score each call's arguments; None where the function gave none, failed, or took too long.

        Raises:
            ConfigError: when the function cannot be loaded at all.
        """
        self.faults = []
        return [self._one(call) for call in calls]

    def start(self) -> None:
        """Start the process and load the function. Raises ConfigError saying why it cannot be."""
        self._process.start()

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _one(self, call: dict[str, Any]) -> float | None:
        self._process.start()
        reply = self._process.ask(call, self.seconds)
        if reply is None:
            self._process.close()
            self._tell(f"took longer than {self.seconds:g} s" if self._process.late else "died")
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
