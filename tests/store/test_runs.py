"""Runs, on every database."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from rung.errors import ConfigError, StoreError
from rung.store import Store
from rung.store.records import BaseRecord, DatasetRecord, RunNotFound, now
from rung.store.runs import alive
from rung.train.claims import refuse_ended


def test_a_run_from_start_to_end(store: Store, base: BaseRecord, quotes: DatasetRecord) -> None:
    run = store.runs.create(
        "coach", "lora", objective="sft", config={"rate": 1e-4}, base=base, data=quotes
    )
    assert re.fullmatch(r"coach-\d{8}-\d{4}-[0-9a-f]{4}", run.id)
    assert (run.status, run.finished) == ("running", None)
    store.runs.update(run.id, metrics={"loss": 2.0}, cost={"tokens": 10})
    ended = store.runs.update(run.id, status="succeeded", metrics={"loss": 1.0})
    assert ended.metrics == {"loss": 1.0}
    assert ended.cost == {"tokens": 10}
    assert ended.finished is not None
    assert ended.finished >= run.started
    assert store.runs.get(run.id) == ended


def test_a_resumed_run_is_running_again(store: Store) -> None:
    run = store.runs.create("coach", "lora")
    failed = store.runs.update(run.id, status="failed", error="NaN loss at step 3")
    assert failed.error == "NaN loss at step 3"
    resumed = store.runs.update(run.id, status="running")
    assert (resumed.status, resumed.error, resumed.finished) == ("running", None, None)


def test_a_cancelled_run_learns_it_from_its_heartbeat(store: Store) -> None:
    run = store.runs.create("coach", "lora")
    assert store.runs.beat(run.id) == "running"
    store.runs.update(run.id, status="cancelled")
    assert store.runs.beat(run.id) == "cancelled"


def test_a_run_whose_process_is_gone_was_interrupted(store: Store, url: str) -> None:
    code = (
        "import sys; from rung.store import Store; "
        "print(Store.open(sys.argv[1]).runs.create('coach', 'lora').id)"
    )
    made = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    run = store.runs.get(made.stdout.strip())
    assert run.status == "interrupted"
    alive = store.runs.create("coach", "lora")
    assert [r.id for r in store.runs.list(status="running")] == [alive.id]
    assert [r.id for r in store.runs.list(status="interrupted")] == [run.id]


def test_a_run_is_taken_up_by_one_alone(store: Store) -> None:
    run = store.runs.update(store.runs.create("coach", "lora").id, status="interrupted")
    taken = store.runs.take_up(run)
    assert (taken.status, taken.pid, taken.finished) == ("running", os.getpid(), None)
    with pytest.raises(ConfigError, match=f"still running in process {os.getpid()} on "):
        store.runs.take_up(run)
    store.runs.beat(run.id)
    with pytest.raises(ConfigError, match="still running"):
        store.runs.take_up(taken)  # it has given a sign since


def test_a_climb_is_taken_up_by_one_alone(
    store: Store, base: BaseRecord, quotes: DatasetRecord
) -> None:
    climb = store.climbs.create("wheat", task={}, base=base, data=quotes)
    climb = store.climbs.update(climb.id, status="interrupted")
    taken = store.climbs.take_up(climb)
    assert (taken.status, taken.pid, taken.finished) == ("running", os.getpid(), None)
    for read in (climb, taken):
        with pytest.raises(ConfigError, match=f"still running in process {os.getpid()} on "):
            store.climbs.take_up(read)
        store.climbs.update(climb.id)  # a sign that it gives


def test_what_another_host_is_at_is_taken_up_by_force_alone(store: Store) -> None:
    here = store.runs.create("coach", "lora")
    there = replace(here, host="a pod that is gone")
    with pytest.raises(
        ConfigError, match="on a pod that is gone; if that process is gone, add --force"
    ):
        refuse_ended(there)
    assert refuse_ended(there, force=True) == "interrupted"
    with pytest.raises(ConfigError, match="still running"):
        refuse_ended(here, force=True)


def test_an_id_of_a_process_that_is_another_now_is_no_sign_of_life() -> None:
    """The first process of a container has the same one each time."""
    assert alive(os.getpid(), now())
    assert not alive(os.getpid(), "2020-01-01T00:00:00.000000Z")


def test_listing_is_newest_first(store: Store) -> None:
    runs = [store.runs.create(name, "lora").id for name in ("a", "b", "a")]
    assert [r.id for r in store.runs.list()] == runs[::-1]
    assert [r.id for r in store.runs.list(model="a", limit=1)] == [runs[2]]


def test_what_is_unknown_is_named(store: Store) -> None:
    for ask in (store.runs.get, store.runs.update, store.runs.beat):
        with pytest.raises(RunNotFound, match="no run 'x'"):
            ask("x")
    run = store.runs.create("coach", "lora")
    with pytest.raises(StoreError, match="did you mean 'failed'"):
        store.runs.update(run.id, status="fail")  # type: ignore[arg-type]


def test_threads_write_side_by_side(store: Store, base: BaseRecord) -> None:
    run = store.runs.create("coach", "lora")
    faults: list[Exception] = []

    def work(worker: int) -> None:
        try:
            for step in range(5):
                store.runs.update(run.id, metrics={"step": step})
                store.models.put(f"m{worker}-{step}", method="lora", base=base)
        except Exception as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(store.models.list()) == 30
