"""Observers compose: each is told all, a faulty one stops nobody, and a stop is an answer."""

from __future__ import annotations

import json

import pytest

from rung.errors import Interrupted
from rung.store import Store
from rung.train import job
from rung.train.observers import Observer, Observers, Stop
from rung.train.run_log import Heartbeat
from tests.train.test_job import plan


class Told(Observer):
    """Keeps the names of what it was told."""

    def __init__(self):
        self.events = []
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def started(self, started):
        self.events.append("started")
        self.per_epoch = started.per_epoch

    def begin(self, steps, at):
        self.events.append("begin")

    def step(self, event):
        self.events.append("step")

    def validated(self, event):
        self.events.append("validated")

    def finished(self, made):
        self.events.append("finished")

    def failed(self, fault):
        self.events.append(f"failed by {type(fault).__name__}")


class Breaks(Observer):
    name = "the tracker"

    def step(self, event):
        raise ConnectionError("no such\nserver")


class Ends(Observer):
    def validated(self, event):
        return Stop("enough") if event.step >= 3 else None


def test_a_faulty_observer_is_told_of_once_and_dropped(make_work):
    work = make_work("lora", "run")
    told, after = Told(), Told()
    work.observer = Observers.of(told, Breaks(), None, after)
    state = work.run()
    assert state.step == 12
    for one in (told, after):
        assert one.notes == ["the tracker failed and is told nothing more: no such server"]
        assert one.events.count("step") == 12
    log = [json.loads(line) for line in (work.folder / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in log if "lr" in e] == list(range(1, 13))


def test_one_that_breaks_while_it_is_told_of_anothers_fault_is_dropped_too(make_work):
    class Worse(Breaks):
        name = "the other"

        def step(self, event):
            return

        def note(self, text):
            raise OSError("no room")

    work, told = make_work(), Told()
    work.observer = Observers.of(Breaks(), Worse(), told)
    work.run()
    assert sorted(n.partition(" failed")[0] for n in told.notes) == ["the other", "the tracker"]


def test_an_interruption_is_no_fault_of_an_observer(make_work):
    class Stops(Observer):
        def step(self, event):
            raise KeyboardInterrupt

    work = make_work()
    work.observer = Observers.of(Stops())
    with pytest.raises(KeyboardInterrupt):
        work.run()


def test_a_stop_ends_the_training_with_the_best_weights(make_work):
    work = make_work("lora", eval_every=1)
    work.observer = Observers.of(Ends(), Told())
    with work.trainer() as trainer:
        state = trainer.run()
        assert state.step == 3 and trainer.stopped == Stop("enough")
        found = trainer.evaluate(work.prepared.rows["validation"], trainer.slot)
    assert found["loss"] == pytest.approx(state.best_value, abs=1e-6)
    assert not work.bank.adapters


def test_a_run_is_made_measured_and_kept_or_dropped(rung_home, quotes):
    store, told = Store.open(), Told()
    made = job.make(plan("kept", quotes, epochs=2), told, store)
    assert store.runs.get(made.run).status == "running" and not store.models.list()
    assert "test_loss" not in made.metrics and made.stopped is None
    outcome = job.keep(made, store, {"validation_accuracy": 0.5})
    assert store.models.get("kept").metrics["validation_accuracy"] == 0.5
    assert outcome.model.run == made.run and store.runs.get(made.run).status == "succeeded"
    steps = told.events.count("step")
    assert steps == 2 * told.per_epoch and told.events[0] == "started"
    assert told.events[-1] == "finished"

    stopped = job.make(plan("dropped", quotes, epochs=2, eval_every=1), Ends(), store)
    assert stopped.stopped == Stop("enough")
    job.drop(stopped, store, stopped.stopped.reason)
    run = store.runs.get(stopped.run)
    assert (run.status, run.error) == ("cancelled", "enough")
    assert [m.name for m in store.models.list()] == ["kept"]


def test_what_fails_between_making_and_keeping_is_noted_in_the_store(rung_home, quotes):
    store, told = Store.open(), Told()
    made = job.make(plan("x", quotes), told, store)
    with pytest.raises(Interrupted) as stopped, job.under_way(made.run, store, made.observers):
        raise KeyboardInterrupt
    assert stopped.value.args == (made.run,)
    assert store.runs.get(made.run).status == "interrupted"
    again = job.make(made.plan, told, store, run=store.runs.get(made.run))
    with pytest.raises(ZeroDivisionError), job.under_way(again.run, store, again.observers):
        raise ZeroDivisionError("a bug")
    run = store.runs.get(made.run)
    assert again.run == made.run and (run.status, run.error) == ("failed", "a bug")
    assert told.events[-1] == "failed by ZeroDivisionError"


def test_a_heartbeat_outlives_a_store_that_is_away(rung_home, monkeypatch):
    store = Store.open()
    run = store.runs.create("x", "lora").id
    heartbeat = Heartbeat(store, run)
    monkeypatch.setattr("rung.train.run_log.BEAT_SECONDS", 0.0)
    with monkeypatch.context() as away:
        away.setattr(type(store.runs), "beat", lambda *_: 1 / 0)
        assert not heartbeat.cancelled()
    store.runs.update(run, status="cancelled")
    assert heartbeat.cancelled()
