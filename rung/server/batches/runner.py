"""Takes batches up, as many as a server works on at once, and renews its claims to them.

Of several servers on one store one alone works on a batch. What a server that has ended leaves is taken
up by another one of the same base, or by itself when it starts again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import secrets
import time
from functools import partial
from typing import Any

from anyio.to_thread import run_sync
from starlette.types import ASGIApp

from rung.errors import StoreError
from rung.server.batches.work import Bounds, Work
from rung.server.state import Service
from rung.store.files import place
from rung.store.records import now
from rung.store.serving import BatchRecord

log = logging.getLogger("rung.batches")

POLL = 2.0  # seconds between two looks at the store
MAX_BATCHES = 16  # that one server works on at once
MAX_OF_KEY = 4  # of these, of one key
SHARE = 2  # batches take one of so many lanes of the engine


class BatchRunner:
    """Batches of one server, on the event loop of its application.

    Args:
        app: the application whose routes answer the lines.
    """

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service
        self.claim = f"{platform.node()}/{os.getpid()}/{secrets.token_hex(8)}"
        width = max(1, service.engine.scheduler.max_batch // SHARE)
        self.bounds = Bounds(asyncio.Semaphore(width), width)
        self.works: dict[str, tuple[Work, asyncio.Task]] = {}
        self._stopping = False
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task | None = None

    @property
    def base(self) -> str:
        """The spec of the base that batches are taken up for."""
        return self.service.settings.base or ""

    def start(self) -> BatchRunner:
        """Begin, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._live())
        return self

    def wake(self) -> None:
        """Look at once; from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake.set)

    def stop(self) -> None:
        """Let lines end that are being answered, and give the claims back; not on the loop's thread."""
        self._stopping = True
        self.wake()
        if self._loop is not None and self._task is not None and not self._task.done():
            asyncio.run_coroutine_threadsafe(self._ended(), self._loop).result()

    async def _ended(self) -> None:
        assert self._task is not None
        await asyncio.wait([self._task])

    def abort(self) -> None:
        """Break off where it is; on the loop's thread."""
        self._stopping = True
        for task in (self._task, *(task for _, task in self.works.values())):
            if task is not None:
                task.cancel()

    async def _live(self) -> None:
        told = ""
        while not self._stopping:
            try:
                await self._look()
                told = ""
            except StoreError as fault:  # locked, full or gone: the next round tries again
                if str(fault) != told:
                    log.warning("batches wait: %s", fault)
                told = str(fault)
            except Exception:
                log.exception("the runner of batches met a fault")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL)
            self._wake.clear()
        for work, _ in self.works.values():
            work.halted = True
        if self.works:
            await asyncio.wait([task for _, task in self.works.values()])
        for id in list(self.works):
            await self._forget(id)

    async def _look(self) -> None:
        """Renew what is held, forget what has ended, take up what is free."""
        for id, (_, task) in list(self.works.items()):
            if task.done():
                await self._forget(id)
        await self._renew()
        if self.service.traffic.draining:
            return
        for batch in await run_sync(self.service.store.batches.working, self.base):
            if batch.id not in self.works and self._takes(batch):
                await self._take_up(batch)

    def _takes(self, batch: BatchRecord) -> bool:
        """Whether there is room for a batch here, beside those of other keys, and its file is here."""
        keys = [work.batch.key for work, _ in self.works.values()]
        if len(keys) >= MAX_BATCHES or keys.count(batch.key) >= MAX_OF_KEY:
            return False
        ends = batch.status == "cancelling" or batch.expires <= now()
        return ends or place(batch.stored).is_file()

    async def _take_up(self, batch: BatchRecord) -> None:
        store = self.service.store.batches
        dead = batch.claim if ended(batch.claim) else None
        began = time.monotonic()
        if not await run_sync(partial(store.claim, batch.id, self.claim, dead=dead)):
            return
        held = await run_sync(store.get, batch.id)
        work = Work(self.app, self.service, held, self.claim, self.bounds)
        await self._tell_keys([work])
        work.renewed = began
        task = asyncio.create_task(work.run())
        task.add_done_callback(self._done)
        self.works[batch.id] = (work, task)

    async def _renew(self) -> None:
        """Renew every claim, say how far the batches are, and learn what was asked meanwhile."""
        works = [work for work, _ in self.works.values()]
        for work in works:
            began, renew = time.monotonic(), self.service.store.batches.renew
            found = await run_sync(partial(renew, work.batch.id, self.claim, **counted(work)))
            if found is None:
                work.lost = True
            else:
                work.batch, work.renewed = found, began
        await self._tell_keys(works)

    async def _tell_keys(self, works: list[Work]) -> None:
        """Tell works whose key was revoked."""
        if any(work.batch.key is not None for work in works):
            keys = {key.id for key in await run_sync(self.service.store.keys.list)}
            for work in works:
                work.revoked = work.batch.key is not None and work.batch.key not in keys

    def _done(self, task: asyncio.Task) -> None:
        """Look for the next batch at once; a batch that failed is tried again no sooner than usual."""
        if not task.cancelled() and task.exception() is None:
            self._wake.set()

    async def _forget(self, id: str) -> None:
        """Leave a batch that has ended here, so that it can be taken up where it has not."""
        _, task = self.works.pop(id)
        fault = None if task.cancelled() else task.exception()
        if isinstance(fault, (StoreError, OSError)):
            log.warning("batch %s waits: %s", id, fault)
        elif fault is not None:
            log.error("batch %s met a fault and is tried again", id, exc_info=fault)
        with contextlib.suppress(StoreError):
            await run_sync(self.service.store.batches.release, id, self.claim)


def counted(work: Work) -> dict[str, Any]:
    """How many lines of a batch were answered, as columns of the store."""
    if work.journal is None or work.batch.status == "validating":
        return {}
    return {"completed": work.journal.completed, "failed": work.journal.failed}


def ended(claim: str | None) -> bool:
    """Whether a claim is of a process of this machine that is gone."""
    import psutil

    host, _, rest = (claim or "").rpartition("/")[0].rpartition("/")
    return host == platform.node() and rest.isdecimal() and not psutil.pid_exists(int(rest))
