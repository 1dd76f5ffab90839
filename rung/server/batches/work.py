"""Works on one batch that its server has claimed: checks it, has its lines answered, ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import httpx
from anyio.to_thread import run_sync
from starlette.types import ASGIApp

from rung.server.batches import lines
from rung.server.batches.asking import again_in, ask, client_of, told
from rung.server.batches.journal import Error, Journal, divide
from rung.server.batches.lines import BadLine, Line
from rung.server.files import expiry
from rung.server.state import Service
from rung.store import batches, files
from rung.store.records import now
from rung.store.serving import WORKING, BatchRecord, BatchStatus, Conflict, FileRecord

log = logging.getLogger("rung.batches")

PAUSE = 0.02  # seconds between two looks whether single requests wait
OUTPUT = "batch_output"  # purpose of what a batch leaves

# Why no further line is asked: one of the statuses that a batch ends with, or `halt`, where this
# server does not go on with it and another one may.
Why = Literal["cancelled", "expired", "failed", "halt"]
LEFT: dict[Why, Error] = {
    "cancelled": ("batch_cancelled", "the batch was cancelled before this request was answered"),
    "expired": ("batch_expired", "the batch expired before this request was answered"),
    "failed": ("invalid_api_key", "the key that made the batch was revoked"),
}


@dataclass(frozen=True)
class Bounds:
    """How much of a server batches may take, all together.

    Attributes:
        lanes: held while a line is asked. width: lines of one batch that are asked at once.
    """

    lanes: asyncio.Semaphore
    width: int


class Work:
    """A batch while this server works on it.

    Args:
        app: the application whose routes answer. claim: names this server in the store.

    Attributes:
        batch: as the store last had it; whoever renews the claim sets it.
        revoked: whether the key that made it is gone. halted: whether this server is to stop.
        lost: whether another server may have it. renewed: when it was last claimed, by the monotonic
            clock.
    """

    def __init__(self, app: ASGIApp, service: Service, batch: BatchRecord, claim: str, bounds: Bounds):
        self.service, self.batch, self.claim, self.bounds = service, batch, claim, bounds
        self.revoked = self.halted = self.lost = False
        self.renewed = time.monotonic()
        self.store = service.store.batches
        self.journal: Journal | None = None
        self._client = client_of(app, batch.key)
        self._next = asyncio.Lock()
        self._writes = asyncio.Lock()

    async def run(self) -> None:
        """Bring the batch as far as it gets.

        Raises:
            StoreError, OSError: where store or disk fail; the batch can be taken up again.
        """
        try:
            if self.batch.status == "validating" and not await self._check():
                return
            if "in_progress" not in self.batch.moments:  # cancelled before it began
                await self._turn("cancelled", ("cancelling",))
                return
            self.journal = await run_sync(Journal, batches.journal(self.batch.id))
            await self._answer()
            await self._end()
        except Conflict:  # it was cancelled, or taken by another: the next look tells
            pass
        except (BadLine, FileNotFoundError) as fault:
            log.error("the file of batch %s has changed: %s", self.batch.id, fault)
            error = ("invalid_file", "the file was changed while the batch was answered")
            await self._leave("failed", (), error)
        finally:
            if self.journal is not None:
                self.journal.close()
            await self._client.aclose()

    def ends(self) -> Why | None:
        """Why no further line is to be asked; None: go on."""
        if self.halted or self.lost or self.service.traffic.draining:
            return "halt"
        if self.batch.status == "cancelling":
            return "cancelled"
        if self.revoked:
            return "failed"
        return "expired" if self.batch.expires <= now() else None

    # --- steps ------------------------------------------------------------------------------------

    async def _check(self) -> bool:
        """Check the file; returns whether it can be answered."""
        path, most = files.place(self.batch.stored), self.service.limits.max_body
        try:
            found = await run_sync(lines.check, path, self.batch, most)
        except OSError:
            found = lines.Checked()
            found.refuse(BadLine("invalid_file", "the bytes of the file are gone", "input_file_id"))
        if found.errors:
            await self._turn("failed", ("validating",), errors={"data": found.errors})
            return False
        await self._turn("in_progress", ("validating",), total=found.total, model=found.model)
        return True

    async def _answer(self) -> None:
        """Have every line answered that is not in the journal, side by side."""
        content = self._read()
        workers = [asyncio.create_task(self._worker(content)) for _ in range(self.bounds.width)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _worker(self, content: Iterator[Line]) -> None:
        while self.ends() is None:
            async with self._next:
                line = await run_sync(self._unanswered, content)
            if line is None:
                return
            await self._one(line)

    async def _one(self, line: Line) -> None:
        """Ask a line until it is answered for good, or the batch ends."""
        while True:
            async with self.bounds.lanes:
                if not await self._may():
                    return
                try:
                    answer = await ask(self._client, self.batch.endpoint, line.body)
                except (ValueError, RecursionError):
                    fault = ("invalid_value", "'body' cannot be written as JSON")
                    await self._keep(line, None, fault)
                    return
            wait = again_in(answer)
            if wait is None:
                await self._keep(line, answer)
                return
            await self._sleep(wait)

    async def _may(self) -> bool:
        """Let single requests that wait go first; returns whether the batch still goes on."""
        waiting = self.service.engine.scheduler.waiting
        while self.ends() is None and len(waiting):
            await asyncio.sleep(PAUSE)
        return self.ends() is None

    async def _sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self.ends() is None and (left := end - loop.time()) > 0:
            await asyncio.sleep(min(left, 0.25))

    async def _keep(
        self, line: Line, answer: httpx.Response | None, error: Error | None = None
    ) -> None:
        assert self.journal is not None
        async with self._writes:
            self.lost = self.lost or time.monotonic() - self.renewed > batches.LEASE
            if self.lost:  # what the other server writes counts
                return
            response = None if answer is None else told(answer)
            await run_sync(self.journal.add, line.custom_id, response, error)

    async def _end(self) -> None:
        """Let the batch end, where no line is left or none is to be asked any more."""
        assert self.journal is not None
        why, left = self.ends(), self.batch.total - len(self.journal.done)
        if why == "halt" or (why is None and left):
            return
        if why is None or (why == "expired" and not left):
            await self._leave("completed", ())
        else:
            await self._leave(why, await run_sync(self._left), LEFT[why])

    async def _leave(
        self, status: BatchStatus, left: Sequence[str], error: Error | None = None
    ) -> None:
        """Write output and errors, and end the batch.

        Args:
            left: custom_ids of lines that were not answered; error: what is told of them.
        """
        if status in ("completed", "expired") and self.batch.status == "in_progress":
            await self._turn("finalizing", ("in_progress",))
        values = await run_sync(self._divide, left, error)
        if status == "failed" and error is not None:
            fault = {"code": error[0], "message": error[1], "param": None, "line": None}
            values["errors"] = {"data": [fault]}
        await self._turn(status, WORKING, **values)
        with contextlib.suppress(OSError):
            batches.journal(self.batch.id).unlink()

    async def _turn(self, to: BatchStatus, among: tuple[str, ...], **values: Any) -> None:
        change = partial(self.store.turn, self.batch.id, to, among=among, claim=self.claim, **values)
        self.batch = await run_sync(change)

    # --- in a thread ------------------------------------------------------------------------------

    def _read(self) -> Iterator[Line]:
        path, most = files.place(self.batch.stored), self.service.limits.max_body
        return lines.read(path, self.batch, most)

    def _unanswered(self, content: Iterator[Line]) -> Line | None:
        assert self.journal is not None
        return next((line for line in content if line.custom_id not in self.journal.done), None)

    def _left(self) -> list[str]:
        assert self.journal is not None
        return [line.custom_id for line in self._read() if line.custom_id not in self.journal.done]

    def _divide(self, left: Sequence[str], error: Error | None) -> dict[str, Any]:
        """Write output and errors; returns what the store is to know of them."""
        assert self.journal is not None
        batch = self.batch
        names = {kind: f"{batch.id}_{kind}.jsonl" for kind in ("output", "error")}
        places = {kind: files.place(name) for kind, name in names.items()}
        usage = divide(self.journal.path, places["output"], places["error"], left, error)
        values: dict[str, Any] = {
            "usage": usage, "completed": self.journal.completed, "files": [],
            "failed": self.journal.failed + len(left),
        }  # fmt: skip
        for kind, place in places.items():
            size = place.stat().st_size
            if not size:
                place.unlink()
                continue
            id, expires = files.fresh_id(), expiry(batch.lasts)
            file = FileRecord(id, names[kind], OUTPUT, names[kind], size, now(), expires, batch.owner)
            values["files"].append(file)
            values[f"{kind}_file"] = id
        return values
