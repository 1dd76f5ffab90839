"""A climb that is interrupted goes on: what is finished is kept, what was under way is continued."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from rung.errors import ConfigError, DataError, Interrupted
from rung.ladder import controller as climbing
from rung.ladder.climb import resume
from rung.ladder.cost import Cost
from rung.ladder.forecast import Prediction
from rung.store import Store
from tests.ladder.hill import Log, go, rungs_of, settings, write_words

ORDER = {"zero_shot": 1.0, "linear_probe": 2.0, "lora": 3.0}


@pytest.fixture
def words(tmp_path: Path, rung_home: Path) -> Path:
    return write_words(tmp_path / "words.jsonl")


@pytest.fixture(autouse=True)
def trials(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rungs that were tried out before the climb, whose costs are given here."""
    done: list[str] = []

    def predict(bench, rung):
        done.append(rung.key)
        return Prediction(Cost(ORDER[rung.key], ORDER[rung.key]), steps=100, tokens=1000)

    monkeypatch.setattr(climbing, "predict_rung", predict)
    return done


def stops_at(stage: str):
    """Ctrl-C when a climb says that."""

    def at(text: str) -> None:
        if text == stage:
            raise KeyboardInterrupt

    return at


def interrupted(path: Path, log: Log, **more) -> str:
    with pytest.raises(Interrupted) as stopped:
        go(path, log, all=True, **more)
    assert stopped.value.args[0] == log.climb
    assert Store.open().climbs.get(log.climb).status == "interrupted"
    return log.climb


def test_between_rungs_nothing_is_repeated(words, trials):
    log = Log(at=stops_at("lora: beginning"))
    climb = interrupted(words, log)
    with Store.open() as store:
        before = rungs_of(store, climb)
        assert before["linear_probe"].status == "succeeded"
        again = Log()
        record = resume(climb, again, store)
        after = rungs_of(store, climb)
        assert again.tried() == ["lora"] and record.status == "succeeded"
        assert sorted(trials) == sorted(ORDER)  # no rung was tried out twice
        for key in ("zero_shot", "linear_probe"):
            assert (after[key].run, after[key].cost) == (before[key].run, before[key].cost)
            assert len(store.runs.list(model=f"words-{key}")) == 1
        assert record.settings["spent"] > 0
    assert log.bench is not None and again.bench is not None
    assert not log.bench.touched
    assert again.bench.touched == [record.verdict["winner"], record.verdict["runner_up"], "base"]


def test_while_trials_are_made(words, trials):
    climb = interrupted(words, Log(at=stops_at("lora: a trial of two steps")))
    assert trials == ["linear_probe"]
    record = resume(climb, Log())
    assert sorted(trials) == sorted(ORDER) and record.status == "succeeded"


def test_in_mid_training_the_same_run_goes_on(words):
    class Stops(Log):
        def step(self, event):
            if event.step == 2:
                signal.raise_signal(signal.SIGINT)

    given = settings(words, steps=5)
    climb = interrupted(words, Stops(), given=given, only=["lora"], trials=2)
    with Store.open() as store:
        begun = store.runs.list(model="words-lora")
        assert [r.status for r in begun] == ["interrupted"]
        resume(climb, Log(), store)
        runs = store.runs.list(model="words-lora")
        status = {r.id: r.status for r in runs}
        assert len(runs) == 2 and status[begun[0].id] == "succeeded"  # two trials, no more
        assert set(status.values()) <= {"succeeded", "cancelled"}  # the second may be given up
        found = rungs_of(store, climb)["lora"]
        assert [t["run"] for t in found.trials["done"]][0] == begun[0].id
        lr = {r.config["lr"] for r in runs}
        assert len(lr) == 2 and store.models.get("words-lora").run == found.run


def test_a_repetition_with_another_seed_goes_on_as_one(words):
    class Stops(Log):
        begun = 0

        def begin(self, steps, at):
            self.begun += 1
            if self.begun == 2:  # the first is the trial, the second its repetition
                signal.raise_signal(signal.SIGINT)

    climb = interrupted(words, Stops(), only=["lora"], seeds=3, trials=1)
    with Store.open() as store:
        resume(climb, Log(), store)
        found = rungs_of(store, climb)["lora"]
        assert [s["seed"] for s in found.metrics["seeds"]] == [0, 1, 2]
        assert len(store.runs.list(model="words-lora")) == 3
        assert store.runs.get(found.run or "").config["seed"] == 0


def test_in_the_curve_known_points_are_kept(words):
    climb = interrupted(words, Log(at=stops_at("linear_probe on 50% of the data")))
    with Store.open() as store:
        assert [p["share"] for p in store.climbs.get(climb).settings["points"]] == [0.25]
        again = Log()
        record = resume(climb, again, store)
        assert [p["share"] for p in record.verdict["curve"]] == [0.25, 0.5, 1.0]
        assert "linear_probe on 25% of the data" not in again.stages
    assert again.bench is not None and again.bench.touched == []  # the test figures were there


def test_a_finished_climb_and_changed_data_are_refused(words):
    record, _ = go(words, only=["zero_shot"])
    with pytest.raises(ConfigError, match="has finished"):
        resume(record.id)
    with Store.open() as store:
        store.climbs.update(record.id, status="interrupted")
    words.write_text(words.read_text() + '\n{"text": "a new row of rain", "label": "cruel"}')
    with pytest.raises(DataError, match="has changed"):
        resume(record.id)
