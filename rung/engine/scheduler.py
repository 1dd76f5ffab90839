"""Continuous-batching scheduler: admits requests into lanes and splits prompts into chunks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from rung.engine.prefill import PrefillChunk
from rung.engine.request import EngineFault
from rung.engine.request_state import RequestState
from rung.engine.runner import Runner
from rung.engine.wait_queue import WaitQueue
from rung.errors import RungError

PREFILL_TOKENS = 256  # tokens prefilled in a step in which somebody waits for the next token
PREFILL_TOKENS_ALONE = 2048  # the same where nobody does; cancelling takes effect between steps
OLDEST_SHARE = 4  # the oldest reader gets at least one in so many of these tokens
MAX_DRAFTING = 2  # requests that decode while drafts are verified; with more it costs what it saves
HEADROOM = 64  # positions that a newcomer must find free, or it would be preempted a few steps later


class Scheduler:
    """Up to `max_batch` requests at once, as memory allows.

    Args:
        max_waiting: maximum number of requests that wait for a lane.

    Attributes:
        running: at its index stands who has that lane. The first `decoding` of them decode, the others
            still read their prompts.
        waiting: who has no lane.
        prefill_tokens, prefill_tokens_alone: prompt tokens per step, see PREFILL_TOKENS.
        max_drafting: requests that decode at most while drafts are verified.
    """

    def __init__(self, runner: Runner, max_batch: int, max_waiting: int):
        self.runner, self.max_batch = runner, max_batch
        self.running: list[RequestState] = []
        self.decoding = 0
        self.waiting = WaitQueue(max_waiting)
        self.prefill_tokens, self.prefill_tokens_alone = PREFILL_TOKENS, PREFILL_TOKENS_ALONE
        self.max_drafting = MAX_DRAFTING
        self._admissions = itertools.count(1)
        self._needed = 0, 0  # lanes and positions needed at most since the last `give_back`

    @property
    def busy(self) -> bool:
        """Whether anybody runs or waits."""
        return bool(self.running or len(self.waiting))

    def slots(self) -> set[int]:
        """Return the slots of everybody who runs or waits."""
        return self.running_slots() | self.waiting.slots()

    def running_slots(self) -> set[int]:
        """Return the slots of everybody who runs."""
        return {r.slot for r in self.running}

    # --- joining ----------------------------------------------------------------------------------

    def drop_ended(self) -> None:
        """Let go of what was cancelled or is overdue."""
        for request in [r for r in self.running if r.ended]:
            self.release(request)
            request.end_early()
        for request in self.waiting.remove_ended():
            request.end_early()

    def admit(self, ready: Callable[[RequestState], bool] = lambda request: True) -> None:
        """Move from the queue into lanes what fits now.

        Args:
            ready: called with who joins; False refuses it, having failed it.
        """
        while len(self.running) < self.max_batch:
            request = self.waiting.first(self.running)
            if request is None:
                return
            if not self._reserve([*self.running, request], HEADROOM if self.running else 0):
                if self.running:
                    return
                self.waiting.take(request)
                request.fail(_too_big(request))
                continue
            self.waiting.take(request)
            if ready(request):
                request.admitted = next(self._admissions)
                request.lane = len(self.running)
                self.running.append(request)

    def preempt(self) -> None:
        """Send the youngest back to wait until memory suffices for one more token of all others.

        It keeps what it has drawn, and reads it again with its prompt when it is admitted next.
        """
        if self.running:
            positions = max(r.positions for r in self.running) + HEADROOM
            lanes, most = self._needed
            self._needed = max(lanes, len(self.running)), max(most, positions)
        while self.running and not self._reserve(self.running):
            youngest = max(self.running, key=lambda r: r.admitted)
            self.release(youngest)
            youngest.restart()
            if self.running:
                self.waiting.send_back(youngest)
            else:
                youngest.fail(_too_big(youngest))

    def reserve_waiting(self) -> None:
        """Make room at once for all that wait, as far as memory allows, where nobody runs."""
        count, longest = self.waiting.extent()
        if count and not self.running:
            self.runner.reserve(min(count, self.max_batch), longest + 1)

    def _reserve(self, requests: Iterable[RequestState], headroom: int = 0) -> bool:
        positions = [r.positions for r in requests]
        return self.runner.reserve(len(positions), max(positions) + headroom)

    # --- prefill ----------------------------------------------------------------------------------

    def schedule_prefill(self) -> list[tuple[RequestState, PrefillChunk]]:
        """Choose what this step prefills: the shortest first, a share for who has waited longest.

        Newcomers get what the prefix cache holds of their prompts copied into their lanes.
        """
        readers = self.running[self.decoding :]
        for request in readers:
            if request.read == 0:
                self._resume(request)
        readers.sort(key=lambda r: r.unread)
        if not self.runner.in_chunks:
            return [(r, _chunk(r, r.unread)) for r in readers]
        counts = self._share(readers)
        return [(r, _chunk(r, n)) for r, n in zip(readers, counts, strict=True) if n]

    def _resume(self, request: RequestState) -> None:
        """Begin a lane, with cached pages unless the prompt's own log-probabilities are wanted."""
        known = () if request.wants_prompt else request.ids
        slot, count = _chunk(request, len(known)).cached
        # One token at least is read again, for its logits; in front of an adapter none need be.
        ahead = known if request.begins is None else known[: min(count + 1, len(known))]
        request.read = self.runner.resume(request.lane, slot, ahead)
        request.cached = request.cached or min(request.read, request.prompt)

    def _share(self, readers: list[RequestState]) -> list[int]:
        """Divide a step's tokens among readers, who stand shortest first -> tokens of each."""
        if not readers:
            return []
        left = self._prefill_budget()
        oldest = min(range(len(readers)), key=lambda i: readers[i].admitted)
        counts = [0] * len(readers)
        counts[oldest] = min(readers[oldest].unread, max(1, left // OLDEST_SHARE))
        left -= counts[oldest]
        for i, request in enumerate(readers):
            more = min(request.unread - counts[i], left)
            counts[i] += more
            left -= more
        return counts

    def _prefill_budget(self) -> int:
        """Tokens to prefill in this step: few while somebody waits for single tokens."""
        waits = any(not r.generation.throughput for r in self.running[: self.decoding])
        return self.prefill_tokens if waits else self.prefill_tokens_alone

    def start_decoding(self, request: RequestState) -> None:
        """Move a reader that has read everything among those who decode."""
        first = self.decoding
        if request.lane != first:
            other, lane = self.running[first], request.lane
            self.runner.swap(first, lane)
            self.running[first], self.running[lane] = request, other
            request.lane, other.lane = first, lane
        self.decoding += 1

    # --- decoding ---------------------------------------------------------------------------------

    def draft(self) -> list[list[int]] | None:
        """Draft what may come next for each who decodes, and reserve room to verify it.

        None where nobody has a draft, or too many decode.
        """
        decoding = self.running[: self.decoding]
        if not 0 < len(decoding) <= self.max_drafting:
            return None
        drafts = [r.speculation.draft(r.ids, r.end - len(r.ids) - 1) for r in decoding]
        if not any(drafts):
            return None
        positions = max(r.positions for r in self.running) + max(map(len, drafts))
        return drafts if self.runner.reserve(len(self.running), positions) else None

    def keep_prefix(self, request: RequestState) -> None:
        """Keep what a request has read, its answer included: the next turn begins with it."""
        self.runner.keep(_chunk(request, 0))

    # --- leaving ----------------------------------------------------------------------------------

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
        request.lane = -1
        self.runner.clear(last)

    def _move(self, source: int, target: int) -> None:
        if source != target:
            self.runner.move(source, target)
            self.running[target] = self.running[source]
            self.running[target].lane = target

    def give_back(self) -> None:
        """Give back memory that nobody has needed since this was called last."""
        if self.running:
            self.runner.shrink(*self._needed)
        else:
            self.runner.reset()
        self._needed = 0, 0

    def fail_running(self, fault: Exception) -> None:
        """End everything in flight after a fault of the engine; what waits may go on."""
        failed = self._forget_lanes()
        self.runner.forget()
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:300]
        for request in failed:
            request.fail(EngineFault(f"the engine failed while answering ({reason})"))

    def fail_all(self, fault: Exception) -> None:
        """End everything because the engine stops."""
        requests = [*self._forget_lanes(), *self.waiting.clear()]
        self.runner.forget()
        for request in requests:
            request.fail(fault)

    def _forget_lanes(self) -> list[RequestState]:
        gone, self.running, self.decoding = self.running, [], 0
        self.runner.reset()
        for request in gone:
            request.lane = -1
        return gone


def _chunk(request: RequestState, count: int) -> PrefillChunk:
    begin = request.read
    return PrefillChunk(
        request.lane, request.slot, request.ids, begin, begin + count, request.front, request.begins
    )


def _too_big(request: RequestState) -> RungError:
    return EngineFault(f"memory does not suffice for the keys and values of {request.positions} tokens")
