"""Wait queue of requests without a lane: in order within a model, fair between models."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator

from rung.engine.request_state import RequestState
from rung.errors import Busy


class WaitQueue:
    """Requests that wait for a lane; every method may be called from any thread.

    Who was preempted comes first. Otherwise the model with the fewest requests running is
    served, and of several the one that was served longest ago, so that a burst for one model does not
    keep the others waiting.

    Args:
        max_waiting: maximum number of requests that wait.
    """

    def __init__(self, max_waiting: int):
        self.max_waiting = max_waiting
        self._lock = threading.Lock()
        self._sent_back: deque[RequestState] = deque()
        self._by_model: OrderedDict[str, deque[RequestState]] = OrderedDict()

    def __len__(self) -> int:
        with self._lock:
            return self._count()

    def _count(self) -> int:
        return len(self._sent_back) + sum(map(len, self._by_model.values()))

    def add(self, requests: list[RequestState], patient: bool = False) -> None:
        """Queue all of them or none.

        Args:
            patient: ignore the limit.

        Raises:
            Busy: when they do not fit.
        """
        with self._lock:
            if not patient and len(requests) > self.max_waiting:
                raise Busy(f"{len(requests)} at once, and {self.max_waiting} may wait: ask for fewer")
            if not patient and self._count() + len(requests) > self.max_waiting:
                raise Busy(f"{self._count()} requests are waiting: try again later")
            for request in requests:
                self._by_model.setdefault(request.name, deque()).append(request)

    def send_back(self, request: RequestState) -> None:
        """Queue a request that was preempted, in front of all others."""
        with self._lock:
            self._sent_back.appendleft(request)

    def first(self, running: Iterable[RequestState]) -> RequestState | None:
        """Return whose turn it is, beside those who run; it stays in the queue."""
        with self._lock:
            if self._sent_back:
                return self._sent_back[0]
            counts = Counter(r.name for r in running)
            queues = [q for q in self._by_model.values() if q]
            return min(queues, key=lambda q: counts[q[0].name])[0] if queues else None

    def take(self, request: RequestState) -> None:
        """Remove a request because it gets a lane."""
        with self._lock:
            if self._sent_back and self._sent_back[0] is request:
                self._sent_back.popleft()
                return
            queue = self._by_model[request.name]
            queue.remove(request)
            self._by_model.move_to_end(request.name)
            if not queue:
                del self._by_model[request.name]

    def remove_ended(self) -> list[RequestState]:
        """Remove and return what was cancelled or is overdue."""
        with self._lock:
            gone = [r for r in self._all() if r.ended]
            if gone:
                out = set(gone)
                self._sent_back = deque(r for r in self._sent_back if r not in out)
                kept = {n: [r for r in queue if r not in out] for n, queue in self._by_model.items()}
                self._by_model = OrderedDict((n, deque(left)) for n, left in kept.items() if left)
            return gone

    def clear(self) -> list[RequestState]:
        """Remove and return all."""
        with self._lock:
            gone = list(self._all())
            self._sent_back.clear()
            self._by_model.clear()
            return gone

    def extent(self) -> tuple[int, int]:
        """Return how many requests wait, and the positions that the longest needs."""
        with self._lock:
            return self._count(), max((r.positions for r in self._all()), default=0)

    def slots(self) -> set[int]:
        """Return the slots that somebody waits for."""
        with self._lock:
            return {r.slot for r in self._all()}

    def _all(self) -> Iterator[RequestState]:
        yield from self._sent_back
        for queue in self._by_model.values():
            yield from queue
