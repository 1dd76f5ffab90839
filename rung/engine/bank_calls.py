"""Calls that need the bank to themselves: made between two steps, on the engine's thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class BankCalls:
    """Queue of calls. `add` may be used from any thread."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Any], Future]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, work: Callable[[], Any]) -> Future:
        """Queue a call -> the future of its result."""
        future: Future = Future()
        self._waiting.append((work, future))
        return future

    def run_one(self) -> None:
        """Make the first call; what it raises goes to whoever asked."""
        if not self._waiting:
            return
        work, future = self._waiting.popleft()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except Exception as fault:
            future.set_exception(fault)

    def fail_all(self, fault: Exception) -> None:
        """Fail all calls that are left."""
        while self._waiting:
            _, future = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                future.set_exception(fault)
