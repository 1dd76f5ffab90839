"""Who runs. Requests join and leave between steps, and long prompts are read in pieces."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from rung.engine.prefill import PrefillChunk
from rung.engine.request import EngineFault
from rung.engine.request_state import RequestState
from rung.engine.runner import Runner
from rung.engine.wait_queue import WaitQueue
from rung.errors import RungError

PIECE = 256  # prompt tokens read in one step beside those who decode, who wait for it
ALONE = 2048  # the same when nobody decodes; cancelling takes effect between steps
OLDEST = 4  # the oldest reader gets at least one in so many of these tokens
FEW = 2  # requests that decode while guesses are read; with more, reading them costs what they save
HEADROOM = 64  # entries a newcomer must find free, or it would be sent back a few steps later


class Scheduler:
    """Up to `max_batch` requests at once, as memory allows.

    Attributes:
        running: at its index stands who has that lane. The first `decoding` of them decode, the others
            still read.
        waiting: who has no lane.
        piece: prompt tokens read in one step beside those who decode; more where nobody waits for
            the next token.
    """

    def __init__(self, runner: Runner, max_batch: int, max_waiting: int):
        self.runner, self.max_batch = runner, max_batch
        self.running: list[RequestState] = []
        self.decoding = 0
        self.piece = PIECE
        self.waiting = WaitQueue(max_waiting)
        self._order = itertools.count()
        self._most = 0, 0  # lanes and entries needed since the last rest
        self._joined: dict[int, int] = {}  # id of a running request -> when it joined

    @property
    def busy(self) -> bool:
        return bool(self.running or len(self.waiting))

    def sweep(self) -> None:
        """Let go of what was cancelled or is overdue."""
        for request in [r for r in self.running if r.generation.cancelled or r.overdue]:
            self.release(request)
            _let_go(request)
        for request in self.waiting.sweep():
            _let_go(request)

    def admit(self, ready: Callable[[RequestState], bool] = lambda request: True) -> None:
        """Move from the queue into lanes what fits now.

        Args:
            ready: called with who joins; False refuses it, having failed it.
        """
        while len(self.running) < self.max_batch:
            request = self.waiting.first(self.running)
            if request is None:
                return
            if not self._fits([*self.running, request], HEADROOM if self.running else 0):
                if self.running:
                    return
                self.waiting.take(request)
                request.fail(_too_big(request))
                continue
            self.waiting.take(request)
            if ready(request):
                self._joined[id(request)] = next(self._order)
                request.lane = len(self.running)
                self.running.append(request)

    def make_room(self) -> None:
        """Before a step: where memory does not suffice for one more token each, the youngest waits.

        It keeps what it has drawn, and reads it again with its prompt when it is admitted next.
        """
        if self.running:
            entries = max(r.entries for r in self.running) + HEADROOM
            self._most = max(self._most[0], len(self.running)), max(self._most[1], entries)
        while self.running and not self._fits(self.running):
            youngest = max(self.running, key=lambda r: self._joined[id(r)])
            self.release(youngest)
            youngest.start_again()
            if self.running:
                self.waiting.send_back(youngest)
            else:
                youngest.fail(_too_big(youngest))

    def _fits(self, requests: Iterable[RequestState], headroom: int = 0) -> bool:
        entries = [r.entries for r in requests]
        return self.runner.reserve(len(entries), max(entries) + headroom)

    def guesses(self) -> list[list[int]] | None:
        """For each who decodes what may come next; None where nobody can tell, or too many decode."""
        decoding = self.running[: self.decoding]
        if not 0 < len(decoding) <= FEW:
            return None
        found = [r.lookup.guess(r.ids, r.end - len(r.ids) - 1) for r in decoding]
        if not any(found):
            return None
        entries = max(r.entries for r in self.running) + max(map(len, found))
        return found if self.runner.reserve(len(self.running), entries) else None

    # --- reading --------------------------------------------------------------------------------

    def pieces(self) -> list[tuple[RequestState, PrefillChunk]]:
        """What to read in this step: the shortest first, a share for who has waited longest."""
        readers = sorted(self.running[self.decoding :], key=lambda r: r.unread)
        if not readers:
            return []
        for request in readers:
            if request.read == 0 and not request.wants_prompt:
                request.read = self.runner.resume(request.lane, request.slot, request.ids)
                request.cached = request.cached or min(request.read, request.prompt)
            elif request.read == 0:
                self.runner.resume(request.lane, request.slot, ())
        if not self.runner.in_pieces:
            return [(r, _piece(r, r.unread)) for r in readers]
        budget = self.piece if self.decoding else ALONE
        oldest = min(readers, key=lambda r: self._joined[id(r)])
        share = {id(oldest): min(oldest.unread, max(1, budget // OLDEST))}
        left = budget - share[id(oldest)]
        for request in sorted(readers, key=lambda r: r.unread):
            already = share.get(id(request), 0)
            more = min(request.unread - already, left)
            share[id(request)] = already + more
            left -= more
        return [(r, _piece(r, n)) for r in readers if (n := share[id(r)])]

    def promote(self, request: RequestState) -> None:
        """A reader has read everything: from now on it decodes."""
        first = self.decoding
        if request.lane != first:
            other, lane = self.running[first], request.lane
            self.runner.swap(first, lane)
            self.running[first], self.running[lane] = request, other
            request.lane, other.lane = first, lane
        self.decoding += 1

    def remember(self, request: RequestState) -> None:
        """Keep what a request has read, its answer included: the next turn begins with it."""
        self.runner.keep(_piece(request, 0))

    # --- leaving --------------------------------------------------------------------------------

    def release(self, request: RequestState) -> None:
        """Free a lane; others move up, so that lanes stay without gaps and decoders in front."""
        hole = request.lane
        if hole < self.decoding:
            self.decoding -= 1
            self._move(self.decoding, hole)
            hole = self.decoding
        last = len(self.running) - 1
        self._move(last, hole)
        self.running.pop()
        self._joined.pop(id(request), None)
        request.lane = -1
        self.runner.clear(last)

    def rest(self) -> None:
        """Give back memory that nobody has needed since the last rest."""
        if self.running:
            self.runner.shrink(*self._most)
        else:
            self.runner.reset()
        self._most = 0, 0

    def _move(self, source: int, target: int) -> None:
        if source != target:
            self.runner.move(source, target)
            self.running[target] = self.running[source]
            self.running[target].lane = target

    def fail_running(self, fault: Exception) -> None:
        """After a fault of the engine: everything in flight ends, what waits may go on."""
        failed = self._forget_lanes()
        self.runner.forget()
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:300]
        for request in failed:
            request.fail(EngineFault(f"the engine failed while answering ({reason})"))

    def fail_all(self, fault: RungError) -> None:
        """The engine stops: nobody will answer."""
        requests = [*self._forget_lanes(), *self.waiting.clear()]
        self.runner.forget()
        for request in requests:
            request.fail(fault)

    def _forget_lanes(self) -> list[RequestState]:
        gone, self.running, self.decoding = self.running, [], 0
        self._joined.clear()
        self.runner.reset()
        for request in gone:
            request.lane = -1
        return gone


def _piece(request: RequestState, count: int) -> PrefillChunk:
    begin = request.read
    return PrefillChunk(request.lane, request.slot, request.ids, begin, begin + count, request.front)


def _let_go(request: RequestState) -> None:
    if request.generation.cancelled:
        request.finish("cancelled")
    else:
        request.expire()


def _too_big(request: RequestState) -> RungError:
    return EngineFault(f"memory does not suffice for the keys and values of {request.entries} tokens")
