"""Beginning a climb, and going on with one that was interrupted."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rung.artefacts import folders
from rung.config import as_dict, bare, resolve
from rung.data.knobs import DataKnobs
from rung.errors import ConfigError, DataError, Interrupted
from rung.ladder import verdict
from rung.ladder.controller import ClimbController
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.meter import now
from rung.ladder.observer import ClimbObserver
from rung.ladder.parallel import ParallelClimb
from rung.ladder.rungs import all_rungs
from rung.ladder.stopping import stopped_by_terminate
from rung.ladder.task_context import TaskContext
from rung.launch import ray_cluster
from rung.launch.torchrun import threads
from rung.store import Store
from rung.store.climbs import ClimbRecord
from rung.store.runs import refuse_running

# Names of files and folders that say nothing of what is in them.
PLAIN = {"samples", "data", "train", "test", "validation", "dataset"}
UNFINISHED = ("running", "interrupted")


def climb(
    name: str,
    given: Mapping[str, Any],
    knobs: ClimbKnobs,
    watcher: ClimbObserver | None = None,
    store: Store | None = None,
    replace: bool = False,
    began: float | None = None,
) -> ClimbRecord:
    """Climb on data, and keep the scorecard.

    Args:
        name: begins the climb's id and the names of its models.
        given: settings of data, base, training and methods by knob.
        replace: take the place of models of an earlier climb of that name.
        began: seconds of `time.perf_counter` from which the budget counts; from now on by default.

    Raises:
        RungError: for anything the user can mend, in one line.
        Interrupted: after Ctrl-C or SIGTERM; `.args[0]` is the climb to resume.
    """
    watcher, store = watcher or ClimbObserver(), store or Store.open()
    folders.model_name(name)
    taken = [] if replace else taken_by(name, store)
    if taken:
        raise ConfigError(f"there is {taken[0]} already: say --replace, or choose another --name")
    began = now() if began is None else began
    kind = _kind(knobs)
    with stopped_by_terminate():
        bench = TaskContext.open(given, knobs, watcher.stage)
        rungs = {r.key: r for r in all_rungs(bench.task, knobs.only, knobs.skip, bench.reads)}
        task = dataclasses.asdict(bench.task)
        record = store.climbs.create(
            name, task=task, base=bench.info, data=bench.data, bar=knobs.bar,
            settings={"given": bench.given, "knobs": as_dict(knobs), "spent": 0.0},
        )  # fmt: skip
        return _go(kind(bench, store, record, rungs, watcher, {}, began))


def resume(
    climb_id: str,
    watcher: ClimbObserver | None = None,
    store: Store | None = None,
    began: float | None = None,
    changed: Mapping[str, Any] | None = None,
    force: bool = False,
) -> ClimbRecord:
    """Go on with a climb; rungs that are finished are not repeated.

    Args:
        force: go on though it says that another host is at it, whose process is known to be gone.
        changed: knobs that differ from those it began with: `workers`, `cluster`.
        began: seconds of `time.perf_counter` from which the budget counts; from now on by default.

    Raises:
        ClimbNotFound: naming the nearest. ConfigError: for one that is still going or has ended.
        DataError: when the data is no longer what the climb began with.
    """
    watcher, store = watcher or ClimbObserver(), store or Store.open()
    record = store.climbs.get(climb_id)
    if record.status == "succeeded":
        raise ConfigError(f"climb {record.id} has finished: rung board shows it")
    if record.status == "running":
        refuse_running("climb", record.id, record.host, record.pid, force)
    knobs = resolve([ClimbKnobs], {**record.settings["knobs"], **(changed or {})})[0]
    kind = _kind(knobs)
    began = now() if began is None else began
    with stopped_by_terminate():
        # What it began with says how many rows it held out, where that is not the usual share.
        given = record.settings["given"]
        if "validation" not in {bare(key) for key in given}:
            given = {**given, "validation": DataKnobs().validation}
        bench = TaskContext.open(given, knobs, watcher.stage)
        if bench.data.digest != record.data:
            raise DataError(f"the data of climb {record.id} has changed since it began: climb anew")
        if record.base not in (None, bench.info.digest):
            raise DataError(f"the base of climb {record.id} has changed since it began: climb anew")
        record = store.climbs.take_up(record)
        rungs = {r.key: r for r in all_rungs(bench.task, knobs.only, knobs.skip, bench.reads)}
        records = {r.key: r for r in store.climbs.rungs(record.id)}
        spent, working = (record.settings.get(k) or 0.0 for k in ("spent", "working"))
        return _go(kind(bench, store, record, rungs, watcher, records, began, spent, working))


def _kind(knobs: ClimbKnobs) -> type[ClimbController]:
    """How attempts are made: one after another here, or side by side by workers.

    Raises:
        ConfigError: where there can be no workers, before anything is read.
    """
    if knobs.workers == 1:
        return ClimbController
    ray_cluster.check_address(knobs.cluster)
    ray_cluster.imported(f"--workers {knobs.workers}", knobs.cluster)
    if knobs.cluster == ray_cluster.LOCAL:  # times are those of a worker, which has a part of the cores
        torch.set_num_threads(max(1, threads(knobs.workers)))
    return ParallelClimb


def _go(work: ClimbController) -> ClimbRecord:
    bench, id_ = work.bench, work.record.id
    warnings = [p.message for p in (*bench.dataset.problems, *bench.splits.problems)]
    held = (("test", len(bench.test)), ("validation", len(bench.validation)))
    if bench.judged_by_itself:
        warnings.append(
            f"answers are picked by {bench.knobs.judge} and judged by it too: what they win says "
            "nothing of how good they are; name another --judge"
        )
    told = [verdict.resolution(bench.task, bench.bar, n, part) for part, n in held]
    work.watcher.opened(bench, work.record, [*warnings, *(t for t in told if t)])
    try:
        return work.run()
    except (Interrupted, KeyboardInterrupt):
        work.stop()
        work.store.climbs.update(id_, status="interrupted")
        raise Interrupted(id_) from None
    except Exception:
        work.store.climbs.update(id_, status="failed")
        raise


def taken_by(name: str, store: Store) -> list[str]:
    """What stands in the way of a climb of that name: models, and climbs that may go on."""
    found = [
        f"a model '{m.name}'"
        for m in store.models.list()
        if m.name.startswith(f"{name}-") and m.name.removeprefix(f"{name}-").startswith(m.method)
    ]
    unfinished = [c for c in store.climbs.list() if c.name == name and c.status in UNFINISHED]
    return [*found, *(f"an unfinished climb {c.id} (--resume goes on with it)" for c in unfinished)]


def free_name(wanted: str, store: Store) -> str:
    """`wanted`, or `wanted-2` and so on where earlier climbs have made models of that name."""
    names = (wanted if i == 1 else f"{wanted}-{i}" for i in itertools.count(1))
    return next(name for name in names if not taken_by(name, store))


def task_name(source: str) -> str:
    """A short name for data, from where it came: `.../sarcasm/samples.jsonl` -> `sarcasm`."""
    parts = [p for p in re.split(r"[/:]", source.removeprefix("wheel:").removeprefix("hf:")) if p]
    words = [Path(p).stem if p == parts[-1] else p for p in parts]
    chosen = next(
        (w for w in reversed(words) if w.lower() not in PLAIN), words[-1] if words else "task"
    )
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", chosen).strip("-_")[:32]
    return name or "task"
