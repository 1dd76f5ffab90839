"""From the engine's thread to the event loop: the answers of one HTTP request."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from rung.engine import Completion, Engine, Generation, GenerationRequest, Token
from rung.engine.request import Event

T = TypeVar("T")

# The status a proxy logs for a client that went away; nobody reads it.
GONE = 499


class Answers:
    """Several generations whose events are awaited together.

    What a slow reader leaves waiting is bounded by the length of the answers themselves, and handed
    out in one piece when it reads again.

    Args:
        engine: who answers. requests: all are queued or none.

    Raises:
        RungError: as `Engine.submit`.
    """

    def __init__(self, engine: Engine, requests: list[GenerationRequest]):
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._came = 0.0  # when events were last taken, by the loop's clock
        self._watch: asyncio.TimerHandle | None = None
        self._lock = threading.Lock()
        self._waiting: list[tuple[Generation, Event]] = []
        self._drawn: Counter[Generation] = Counter()
        self.generations = engine.submit_all(requests, self._listen)
        self._index = {g: i for i, g in enumerate(self.generations)}

    def _listen(self, generation: Generation, event: Event) -> None:
        """Called on the engine's thread; wakes the loop once for whatever gathers until it looks."""
        with self._lock:
            if isinstance(event, Completion):
                self._drawn[generation] = event.completion_tokens
            elif isinstance(event, Token):
                self._drawn[generation] += 1
            self._waiting.append((generation, event))
            first = len(self._waiting) == 1
        if first:
            try:
                self._loop.call_soon_threadsafe(self._ready.set)
            except RuntimeError:  # the loop has ended, and with it whoever asked
                generation.cancel()

    @property
    def drawn(self) -> int:
        """Tokens that were drawn until now, also of answers that have not ended."""
        with self._lock:
            return self._drawn.total()

    async def events(self, patience: float | None = None) -> AsyncIterator[list[tuple[int, Event]]]:
        """(index of the answer, event) as they gather, until every answer has ended.

        Args:
            patience: seconds after which an empty list says that nothing has come yet.
        """
        left = len(self.generations)
        # One timer that renews itself: one for each wait would cost more than what is awaited.
        self._came = self._loop.time()
        if patience is not None:
            self._watch = self._loop.call_later(patience, self._look, patience)
        try:
            while left:
                await self._ready.wait()
                self._ready.clear()
                with self._lock:
                    gathered, self._waiting = self._waiting, []
                self._came = self._loop.time()
                left -= sum(isinstance(event, (Completion, Exception)) for _, event in gathered)
                yield [(self._index[g], event) for g, event in gathered]
        finally:
            if self._watch is not None:
                self._watch.cancel()

    def _look(self, patience: float) -> None:
        """Let `events` say that nothing has come, where that is so, and look again."""
        left = self._came + patience - self._loop.time()
        if left <= 0:
            self._ready.set()
            left = patience
        self._watch = self._loop.call_later(left, self._look, patience)

    async def completions(self) -> list[Completion]:
        """All answers, in the order they were asked for.

        Raises:
            RungError: the first failure.
        """
        done: dict[int, Completion] = {}
        async for gathered in self.events():
            for i, event in gathered:
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, Completion):
                    done[i] = event
        return [done[i] for i in range(len(self.generations))]

    def cancel(self) -> None:
        """Free the lanes within one step."""
        for generation in self.generations:
            generation.cancel()


async def unless_gone(receive: Callable[[], Awaitable], work: Awaitable[T]) -> T | None:
    """What `work` returns, or None, with `work` cancelled, when the client goes away first.

    Args:
        receive: the ASGI function, its body read; all it can bring is the disconnect.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        task.cancel()
        watch.cancel()
