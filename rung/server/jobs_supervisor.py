"""Keeps jobs going: a worker process for each, restarted where it dies, never two for one job.

A job's status in the store is what is wanted of it: whoever pauses or cancels it only says so there,
and the supervisor ends the worker, which leaves a checkpoint. A worker outlives the server; the next
server finds it by its process id and command line, and starts it again where it is gone.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rung import home
from rung.errors import RungError, StoreError
from rung.server.catalogue import Catalogue
from rung.store import Store
from rung.store.serving import ACTIVE, Conflict, JobRecord

if TYPE_CHECKING:
    import psutil
    from prometheus_client import Gauge

log = logging.getLogger("rung.jobs")

POLL = 0.5  # seconds
GRACE = 60.0  # seconds that a worker may take to write its checkpoint
ATTEMPTS = 3  # workers that may die at one job in a row
CHECKS = 2  # files validated at once
NICE = 10


@dataclass
class Worker:
    """A process at work on a job."""

    job: str
    kind: str  # what it does: `check` or `work`
    process: psutil.Process
    told: float | None = None  # when it was asked to stop
    child: subprocess.Popen | None = field(default=None, repr=False)

    @property
    def alive(self) -> bool:
        import psutil

        if self.child is not None:
            return self.child.poll() is None
        with contextlib.suppress(psutil.Error):
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        return False

    def stop(self) -> None:
        """Ask once, then insist."""
        import psutil

        with contextlib.suppress(psutil.Error):
            if self.told is None:
                self.told = time.monotonic()
                self.process.terminate()
            elif time.monotonic() - self.told > GRACE:
                self.process.kill()


class Supervisor:
    """A thread that looks after the jobs of one server.

    Args:
        catalogue: serves what jobs make; its base is what jobs are taken for.
        gauge: counts jobs by status. limit: maximum number of workers that tune or climb at once.
    """

    def __init__(self, catalogue: Catalogue, gauge: Gauge, limit: int):
        self.catalogue, self.jobs = catalogue, catalogue.store.jobs
        self.gauge, self.limit = gauge, limit
        self.workers: dict[str, Worker] = {}
        self._wake, self._stopping = threading.Event(), False
        self._thread = threading.Thread(target=self._live, name="rung-jobs", daemon=True)

    def start(self) -> Supervisor:
        self._thread.start()
        return self

    def wake(self) -> None:
        """Look at once: something was asked for."""
        self._wake.set()

    def stop(self) -> None:
        """End the workers at a checkpoint; their jobs go on when a server starts again."""
        self._stopping = True
        self.wake()
        self._thread.join()
        for worker in self.workers.values():
            worker.stop()
        end = time.monotonic() + GRACE
        while any(w.alive for w in self.workers.values()) and time.monotonic() < end:
            time.sleep(0.05)
        for worker in self.workers.values():
            if worker.alive:
                worker.process.kill()

    def abort(self) -> None:
        """Kill the workers where they are."""
        self._stopping = True
        self.wake()
        for worker in list(self.workers.values()):
            with contextlib.suppress(Exception):
                worker.process.kill()

    def _live(self) -> None:
        served = False
        while not self._stopping:
            try:
                if not served:
                    self.catalogue.serve_jobs()
                    served = True
                self.step()
            except StoreError as fault:  # locked, full or gone: the next round tries again
                log.warning("jobs wait: %s", fault)
            except Exception:
                log.exception("the supervisor of jobs met a fault")
            self._wake.wait(POLL)
            self._wake.clear()

    def step(self) -> None:
        """One look at everything."""
        jobs = {j.id: j for j in self.jobs.list(statuses=ACTIVE).items if j.base == self.catalogue.base}
        self._count(jobs.values())
        for id, worker in list(self.workers.items()):
            job = jobs.get(id)
            wanted = job is not None and (worker.kind == "check") == (job.status == "validating_files")
            if not worker.alive:
                del self.workers[id]
                if wanted and job is not None and not job.made:
                    self._bury(job, worker)
                elif job is None:
                    close_climb(self.catalogue.store, self.jobs.get(id))
            elif job is None or (not wanted and job.status == "queued"):
                worker.stop()
        for job in sorted(jobs.values(), key=lambda j: (j.created, j.id)):
            if job.made:
                self._finish(job)
            elif job.id not in self.workers:
                self._take_up(job)

    def _count(self, jobs) -> None:
        found = [job.status for job in jobs]
        for status in ACTIVE:
            self.gauge.labels(status).set(found.count(status))

    def _take_up(self, job: JobRecord) -> None:
        """Find the job's worker, or start one where there is room."""
        if (process := _found(job)) is not None:
            self.workers[job.id] = Worker(job.id, "work", process)
            return
        kind = "check" if job.status == "validating_files" else "work"
        busy = sum(w.kind == kind for w in self.workers.values())
        if busy < (CHECKS if kind == "check" else self.limit):
            self.workers[job.id] = _spawn(job, kind)

    def _bury(self, job: JobRecord, worker: Worker) -> None:
        """A worker ended without saying how: count it, and give up after a few."""
        job = self.jobs.get(job.id)
        if job.status not in ACTIVE or job.made or worker.told is not None:
            return
        kind = "check" if job.status == "validating_files" else "work"
        if kind != worker.kind:  # it had done its part
            return
        code = worker.child.returncode if worker.child else None
        if job.attempts + 1 < ATTEMPTS:
            self.jobs.update(job.id, attempts=job.attempts + 1)
            told = f"The worker ended unexpectedly (exit code {code}); the job goes on where it was"
            self.jobs.say(job.id, [("warn", "message", told, {})])
            return
        told = f"the worker died {ATTEMPTS} times in a row (exit code {code})"
        error = {"code": "server_error", "message": told, "param": None}
        with contextlib.suppress(Conflict):
            self.jobs.turn(job.id, "failed", among=ACTIVE, say=told, error=error)

    def _finish(self, job: JobRecord) -> None:
        """Serve a job's model, then say that it succeeded."""
        try:
            name = self.catalogue.serve_job(job)
        except RungError as fault:
            error = {"code": "server_error", "message": str(fault), "param": None}
            with contextlib.suppress(Conflict):
                self.jobs.turn(job.id, "failed", among=ACTIVE, say=str(fault), error=error)
            return
        with contextlib.suppress(Conflict):
            self.jobs.turn(
                job.id, "succeeded", among=ACTIVE, fine_tuned_model=name,
                say=_done(job, name),
            )  # fmt: skip


def close_climb(store: Store, job: JobRecord) -> None:
    """Note that the climb of a cancelled job has ended, once no worker is at it."""
    if job.status != "cancelled" or job.climb is None:
        return
    if store.climbs.get(job.climb).status == "interrupted":
        store.climbs.update(job.climb, status="cancelled")


def _done(job: JobRecord, name: str | None) -> str:
    if job.kind == "synth":
        made = f"the rows are {job.result_file}" if job.result_file else "the plan is ready"
    else:
        made = f"the model is {name}" if name else "no model is better than the base as it is"
    return f"The job has successfully completed; {made}"


def _spawn(job: JobRecord, kind: str) -> Worker:
    import psutil

    folder = home.folder("jobs")
    with (folder / f"{job.id}.log").open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "rung.server.worker", kind, job.id],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    process = psutil.Process(child.pid)
    with contextlib.suppress(psutil.Error):
        process.nice(NICE)
    return Worker(job.id, kind, process, child=child)


def _found(job: JobRecord) -> psutil.Process | None:
    """The job's worker from an earlier server, if it lives."""
    import psutil

    if not job.pid or job.host != platform.node():
        return None
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(job.pid)
        if job.id in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None
