"""What runs now: trainings, climbs and servers, wherever they share this store, and how to end one."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rung import home
from rung.errors import ConfigError, nearest
from rung.store import Store
from rung.store.climbs import ClimbRecord
from rung.store.records import RunRecord, age, now
from rung.store.runs import alive

ENDED_TRYING = ("succeeded", "failed", "cancelled")
SILENT_SECONDS = 120.0  # without a heartbeat from another host: then it may be gone


@dataclass(frozen=True, kw_only=True)
class Work:
    """Something that runs.

    Attributes:
        kind: training, climb or server. name: by which it is cancelled.
        what: the method of a training, the task of a climb, the address of a server.
        host, pid, user: whose process it is; user is empty on another host.
        started, heard: when it began, and when it last gave a sign, in the store's form.
        progress: how far it is, in words. logs: where it writes.
    """

    kind: str
    name: str
    what: str
    host: str
    pid: int
    user: str
    started: str
    heard: str
    progress: str
    logs: str

    @property
    def silent(self) -> bool:
        """Whether it is on another host and gave no sign for a while."""
        return self.host != platform.node() and age(self.heard) > SILENT_SECONDS

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "silent": self.silent}


def under_way(store: Store) -> list[Work]:
    """All that runs now, the newest first."""
    found = [_training(run) for run in store.runs.list(status="running")]
    found += [_climb(store, c) for c in store.climbs.list() if c.status == "running"]
    return sorted([*found, *_servers()], key=lambda w: w.started, reverse=True)


def cancel(store: Store, name: str) -> str:
    """End a training, climb or server; returns what will happen, in one line.

    A training stops between two micro-batches, wherever it is; others must be on this machine.

    Raises:
        ConfigError: for a name of nothing that runs, or of several things, and for what is elsewhere.
    """
    works = under_way(store)
    found = [w for w in works if w.name == name]
    found = found or [w for w in works if w.name.startswith(name) or str(w.pid) == name]
    if not found:
        raise ConfigError(f"nothing named '{name}' runs now{nearest(name, [w.name for w in works])}")
    if len(found) > 1:
        raise ConfigError(f"'{name}' is {' and '.join(w.name for w in found)}: name one of them")
    (work,) = found
    if work.kind == "training":
        store.runs.update(work.name, status="cancelled")
        return f"{work.name} ends within some seconds; its record says cancelled"
    if work.host != platform.node():
        raise ConfigError(f"{work.name} is process {work.pid} of {work.host}: cancel it there")
    os.kill(work.pid, signal.SIGTERM)
    if work.kind == "climb":
        return f"{work.name} stops; go on with it by rung climb --resume {work.name}"
    return f"{work.name} finishes what it is answering, then ends"


@contextmanager
def announced(address: str, models: Sequence[str], replicas: int = 1) -> Iterator[None]:
    """Let `rung status` know of this process's server, for as long as it serves."""
    path = home.folder("servers") / f"{platform.node()}-{os.getpid()}.json"
    said = {"address": address, "models": list(models), "replicas": replicas, "host": platform.node(),
            "pid": os.getpid(), "started": now()}  # fmt: skip
    path.write_text(json.dumps(said), encoding="utf-8")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _training(run: RunRecord) -> Work:
    folder = home.folder("runs") / run.id
    step, of = run.metrics.get("step"), run.config.get("steps")
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        step = json.loads((folder / "log.jsonl").read_text("utf-8").splitlines()[-1])["step"]
    told = f"step {step}" + (f" of {of}" if of else "") if step else "before its first step"
    return Work(
        kind="training", name=run.id, what=run.method, host=run.host, pid=run.pid,
        user=_user(run.host, run.pid), started=run.started, heard=run.heartbeat, progress=told,
        logs=str(folder),
    )  # fmt: skip


def _climb(store: Store, climb: ClimbRecord) -> Work:
    rungs = store.climbs.rungs(climb.id, items=False)
    ended = sum(r.status in ENDED_TRYING for r in rungs)
    tried = [r.key for r in rungs if r.status == "running"]
    told = f"{ended} of {len(rungs)} rungs" + (f", now {', '.join(tried)}" if tried else "")
    return Work(
        kind="climb", name=climb.id, what=climb.bar or climb.task.get("metric", ""), host=climb.host,
        pid=climb.pid, user=_user(climb.host, climb.pid), started=climb.started, heard=climb.heartbeat,
        progress=told, logs=str(home.folder("runs")),
    )  # fmt: skip


def _servers() -> Iterator[Work]:
    for path in sorted(home.folder("servers").glob("*.json")):
        said = _read(path)
        if said is None:
            continue
        here = said["host"] == platform.node()
        if here and not alive(said["pid"], said["started"]):
            path.unlink(missing_ok=True)  # it was killed
            continue
        many = f"{said['replicas']} replicas, " if said["replicas"] > 1 else ""
        yield Work(
            kind="server", name=f"server-{said['pid']}", what=said["address"], host=said["host"],
            pid=said["pid"], user=_user(said["host"], said["pid"]), started=said["started"],
            heard=said["started"] if not here else now(),
            progress=f"{many}{len(said['models'])} models", logs="stderr of its process",
        )  # fmt: skip


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError):
        return None


def _user(host: str, pid: int) -> str:
    """Whose process it is, as far as this host can tell."""
    import psutil

    if host == platform.node():
        with contextlib.suppress(psutil.Error, KeyError):
            return psutil.Process(pid).username()
    return ""
