"""Figures arrive where --track sends them, and a tracker that fails stops nothing."""

from __future__ import annotations

import csv
import signal

import pytest

from rung import home, trackers
from rung.errors import ConfigError, Interrupted
from rung.store import Store
from rung.train.job import resume, tune
from rung.train.observers import Observer
from rung.train.plan import Plan
from tests.train.conftest import SCRATCH
from tests.train.test_job import plan
from tests.train.test_observers import Told
from tests.train.tracked import LOSSES, killed, run_of


class StopsAt(Observer):
    """Ctrl-C after a step."""

    def __init__(self, step):
        self.at = step

    def step(self, event):
        if event.step == self.at:
            signal.raise_signal(signal.SIGINT)


def folder_of(name):
    return home.folder("runs") / Store.open().runs.list(model=name)[0].id


def read(name):
    """TensorBoard's own view of a run: {figure: {step: value}}, and the text summaries."""
    return read_from(folder_of(name))


def read_from(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    tags = found.Tags()
    figures = {tag: {e.step: e.value for e in found.Scalars(tag)} for tag in tags["scalars"]}
    texts = {tag: found.Tensors(tag)[-1].tensor_proto.string_val[0] for tag in tags["tensors"]}
    return figures, texts


def table(name):
    return table_from(folder_of(name))


def table_from(folder):
    with (folder / "figures.csv").open(newline="") as file:
        return [(int(r["step"]), r["name"], float(r["value"])) for r in csv.DictReader(file)]


def test_tensorboard_reads_what_a_run_wrote(rung_home, quotes):
    outcome = tune(plan("one", quotes, epochs=2, eval_every=2, track=["tensorboard", "csv"]))
    figures, texts = read("one")
    steps = outcome.state.step
    assert list(figures["train/loss"]) == list(range(1, steps + 1))
    assert set(figures["validation/loss"]) == {h["step"] for h in outcome.state.history}
    for entry in outcome.state.history:
        shown = figures["validation/loss"][entry["step"]]
        assert shown == pytest.approx(entry["validation_loss"], rel=1e-6)
    assert figures["test/loss"][steps] == pytest.approx(outcome.metrics["test_loss"], rel=1e-6)
    assert {"train/lr", "train/gradient_norm", "train/token_accuracy"} <= set(figures)
    assert b"| lr |" in texts["settings/text_summary"]
    assert texts["status/text_summary"] == b"succeeded"
    kept = {(step, name): value for step, name, value in table("one")}
    for name, values in figures.items():
        for step, value in values.items():
            assert kept[step, name] == pytest.approx(value, rel=1e-6), name


def test_a_resumed_run_has_each_step_once(rung_home, quotes):
    settings = {"epochs": 3, "save_every": 2, "track": ["tensorboard", "csv"]}
    with pytest.raises(Interrupted) as stopped:
        tune(plan("one", quotes, **settings), StopsAt(3))
    assert read("one")[1]["status/text_summary"] == b"interrupted"
    outcome = resume(stopped.value.args[0])
    tune(plan("two", quotes, **settings))
    once, whole = read("one")[0], read("two")[0]
    assert list(once["train/loss"]) == list(range(1, outcome.state.step + 1))
    assert once["train/loss"] == whole["train/loss"]
    named = "train/loss"
    assert [r for r in table("one") if r[1] == named] == [r for r in table("two") if r[1] == named]


@pytest.mark.parametrize("name", ["tensorboard", "csv"])
def test_what_was_told_before_a_kill_is_there_and_goes_on(name, tmp_path):
    def losses():
        if name == "csv":
            return {step: value for step, named, value in table_from(folder) if named == "train/loss"}
        return read_from(folder)[0].get("train/loss", {})

    folder = tmp_path / "run"
    killed(name, folder, lambda: losses() == LOSSES)
    assert losses() == LOSSES
    again = trackers.make(name)
    again.open(run_of(folder, at=1))
    again.log(2, {"train/loss": 1.25})
    again.close("succeeded", {"test/loss": 1.0})
    assert losses() == {**LOSSES, 2: 1.25}


def test_a_fitted_method_tells_its_figures_too(rung_home, quotes):
    settings = {"base": SCRATCH, "dtype": "float32", "method": "zero_shot", "track": ["csv"]}
    tune(Plan.of("shots", {**settings, "data": str(quotes)}))
    assert (folder_of("shots") / "figures.csv").read_text().startswith("step,name,value")


def test_a_tracker_that_fails_stops_nothing(rung_home, quotes, monkeypatch):
    def full(self, step, figures):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(trackers.get("csv")), "log", full)
    told = Told()
    outcome = tune(plan("one", quotes, track=["csv", "tensorboard"]), told)
    said = [n for n in told.notes if "--track csv" in n]
    assert len(said) == 1 and "No space left" in said[0]
    assert outcome.metrics["test_loss"] == pytest.approx(
        read("one")[0]["test/loss"][outcome.state.step]
    )


def test_what_cannot_work_is_told_before_anything_is_loaded(rung_home, quotes, monkeypatch):
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        plan("one", quotes, track=["tensorbord"])
    monkeypatch.setattr(type(trackers.get("tensorboard")), "package", "not_there_at_all")
    told = Told()
    told.stage = told.notes.append
    with pytest.raises(ConfigError, match=r"pip install 'rung\[tensorboard\]'"):
        tune(plan("one", quotes, track=["tensorboard"]), told)
    assert not told.notes and not Store.open().runs.list()
