"""Who runs and who waits. Requests join and leave between steps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from rung.engine.request import EngineFault
from rung.engine.runner import Runner
from rung.engine.running import Running
from rung.errors import Busy, RungError

PREFILL = 4096  # prompt tokens that join in one step, so that those who run are not kept waiting
HEADROOM = 64  # entries a newcomer must find free, or it would be sent back a few steps later


class Scheduler:
    """First come, first served, up to `max_batch` at once and as memory allows.

    `submit` may be called from any thread; everything else by whoever steps the engine.
    """

    def __init__(self, runner: Runner, max_batch: int, max_waiting: int):
        self.runner, self.max_batch, self.max_waiting = runner, max_batch, max_waiting
        self.running: list[Running] = []  # at its index stands who has that lane
        self.waiting: deque[Running] = deque()
        self.lock = threading.Lock()

    @property
    def busy(self) -> bool:
        return bool(self.running or self.waiting)

    def submit(self, requests: list[Running], patient: bool = False) -> None:
        """Queue all of them or none.

        Args:
            patient: ignore the limit of the queue.

        Raises:
            Busy: when they do not fit in the queue.
        """
        with self.lock:
            if not patient and len(self.waiting) + len(requests) > self.max_waiting:
                raise Busy(f"{len(self.waiting)} requests are waiting: try again later")
            self.waiting.extend(requests)

    def sweep(self) -> None:
        """Let go of what was cancelled."""
        for request in [r for r in self.running if r.generation.cancelled]:
            self.release(request)
            request.finish("cancelled")
        with self.lock:
            gone = [r for r in self.waiting if r.generation.cancelled]
            if gone:
                self.waiting = deque(r for r in self.waiting if not r.generation.cancelled)
        for request in gone:
            request.finish("cancelled")

    def admit(self) -> list[Running]:
        """Move from the queue into lanes what fits now."""
        joined: list[Running] = []
        tokens = 0
        while (request := self._first()) is not None:
            tokens += len(request.ids)
            if joined and tokens > PREFILL:
                break
            if not self._fits([*self.running, request], HEADROOM if self.running else 0):
                if self.running:
                    break
                self._take(request).fail(_too_big(request))
                continue
            request.lane = len(self.running)
            self.running.append(self._take(request))
            joined.append(request)
        return joined

    def _first(self) -> Running | None:
        with self.lock:
            free = len(self.running) < self.max_batch
            return self.waiting[0] if free and self.waiting else None

    def _take(self, request: Running) -> Running:
        with self.lock:
            self.waiting.remove(request)
        return request

    def make_room(self) -> None:
        """Before a step: where memory does not suffice for one more token each, the youngest waits.

        It keeps what it has drawn, and reads it again with its prompt when it is admitted next.
        """
        while self.running and not self._fits(self.running):
            youngest = self.running[-1]
            self.release(youngest)
            if self.running:
                with self.lock:
                    self.waiting.appendleft(youngest)
            else:
                youngest.fail(_too_big(youngest))

    def _fits(self, requests: Iterable[Running], headroom: int = 0) -> bool:
        entries = [r.entries for r in requests]
        return self.runner.reserve(len(entries), max(entries) + headroom)

    def release(self, request: Running) -> None:
        """Free a lane; the last lane takes its place, so that lanes stay without gaps."""
        last = self.running.pop()
        if last is not request:
            self.runner.move(last.lane, request.lane)
            self.running[request.lane] = last
        freed, last.lane = last.lane, request.lane
        request.lane = -1
        self.runner.clear(freed)
        if not self.running:
            self.runner.reset()

    def fail_running(self, fault: Exception) -> None:
        """After a fault of the engine: everything in flight ends, what waits may go on."""
        failed, self.running = self.running, []
        self.runner.reset()
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:300]
        for request in failed:
            request.lane = -1
            request.fail(EngineFault(f"the engine failed while answering ({reason})"))

    def fail_all(self, fault: RungError) -> None:
        """The engine stops: nobody will answer."""
        with self.lock:
            requests = [*self.running, *self.waiting]
            self.running, self.waiting = [], deque()
        self.runner.reset()
        for request in requests:
            request.fail(fault)


def _too_big(request: Running) -> RungError:
    return EngineFault(f"memory does not suffice for the keys and values of {request.entries} tokens")
