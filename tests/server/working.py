"""Workers of jobs as threads of the test's process: what they do is the same, without its imports."""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from rung.server import jobs_supervisor, worker
from rung.server.jobs_supervisor import Worker


def as_thread(job: Any, kind: str) -> Worker:
    """Take the place of `jobs_supervisor._spawn`."""

    def work() -> None:
        with contextlib.suppress(SystemExit):  # how a test lets it die
            worker.main(kind, job.id)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    child: Any = SimpleNamespace(poll=lambda: None if thread.is_alive() else 0, returncode=0)
    process: Any = SimpleNamespace(terminate=lambda: None, kill=lambda: None)
    return Worker(job.id, kind, process, child=child)


@pytest.fixture
def jobs_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin no process for a job."""
    monkeypatch.setattr(jobs_supervisor, "_spawn", as_thread)
