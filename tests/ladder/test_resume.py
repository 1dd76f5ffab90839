"""A climb that is interrupted goes on: what is finished is kept, what was under way is continued."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from rung import methods
from rung.errors import ConfigError, DataError, Interrupted
from rung.ladder.arms import Arms
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
def ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predicted costs, so that rungs are tried in a known order."""

    def predict(self, key, level=None, params=()):
        seconds = ORDER.get(key, 0.01) * (level.share if level else 1.0)
        return Prediction(Cost(seconds=seconds, wall=seconds), steps=100, tokens=1000)

    monkeypatch.setattr(Arms, "prediction", predict)


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


def test_between_rungs_nothing_is_repeated(words):
    log = Log(at=stops_at("lora: beginning"))
    climb = interrupted(words, log)
    with Store.open() as store:
        before = rungs_of(store, climb)
        assert before["linear_probe"].status == "succeeded"
        again = Log()
        record = resume(climb, again, store)
        after = rungs_of(store, climb)
        assert again.tried() == ["lora"] and record.status == "succeeded"
        for key in ("zero_shot", "linear_probe"):
            assert (after[key].run, after[key].cost) == (before[key].run, before[key].cost)
            assert len(store.runs.list(model=f"words-{key}")) == 1
        assert record.settings["spent"] > 0
    assert log.bench is not None and again.bench is not None
    assert not log.bench.touched
    assert again.bench.touched == [record.verdict["winner"], record.verdict["runner_up"], "base"]


def test_a_stopped_climb_has_a_verdict_by_what_was_seen(words):
    climb = interrupted(words, Log(at=stops_at("lora: beginning")))
    said = Store.open().climbs.get(climb).verdict
    assert said["winner"] == "linear_probe" and said["model"] == "words-linear_probe"
    assert said["says"].startswith("The climb was stopped; the best so far is linear_probe: accuracy")
    assert "validation rows" in said["says"] and "test" not in said["says"]
    assert any("nothing is known of them: lora" in line for line in said["next"])


@pytest.mark.parametrize("stage", ["zero_shot: beginning", "base: beginning"])
def test_stopped_before_anything_was_measured_it_claims_nothing(words, stage):
    climb = interrupted(words, Log(at=stops_at(stage)))
    assert not Store.open().climbs.get(climb).verdict


def test_stopped_while_the_base_is_loaded_the_baseline_has_its_verdict(words):
    def at(text: str) -> None:
        if text.startswith("loading"):
            raise KeyboardInterrupt

    climb = interrupted(words, Log(at=at), only=["tfidf", "zero_shot"])
    with Store.open() as store:
        said = store.climbs.get(climb).verdict
        assert said["winner"] == "tfidf" and said["model"] is None
        assert said["says"].startswith("The climb was stopped; the best so far is tfidf: accuracy")
        assert not store.models.list()
        record = resume(climb, Log(), store)
        figure = rungs_of(store, climb)["tfidf"].metrics["validation"]["value"]
        assert f"{figure:.3f}" in said["says"]  # what was told before the base was there still holds
        assert record.status == "succeeded" and store.models.get("words-tfidf").method == "tfidf"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_heeded_that_comes_when_a_method_looks_no_more(words, kind, monkeypatch):
    method = methods.get("zero_shot")
    fit = type(method).fit

    def fitting(self, *arguments):
        found = fit(self, *arguments)
        signal.raise_signal(kind)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(type(method), "fit", fitting)
        climb = interrupted(words, Log(), only=["zero_shot", "linear_probe"])
    with Store.open() as store:
        assert rungs_of(store, climb)["zero_shot"].status == "interrupted"
        assert resume(climb, Log(), store).status == "succeeded"
        assert {r.status for r in rungs_of(store, climb).values()} == {"succeeded"}


def test_a_climb_that_says_nothing_of_it_goes_on_with_the_usual_share(words):
    """As those do that were begun before small data had more rows for validation."""
    given = {**settings(words), "validation": 0.1}
    climb = interrupted(words, Log(at=stops_at("lora: beginning")), given=given)
    with Store.open() as store:
        kept = store.climbs.get(climb).settings
        del kept["given"]["validation"]
        store.climbs.update(climb, settings=kept)
        before = rungs_of(store, climb)["linear_probe"].metrics["validation"]["n"]
        resume(climb, Log(), store)
        assert rungs_of(store, climb)["lora"].metrics["validation"]["n"] == before < 25


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


def test_on_the_test_rows_known_figures_are_kept(words):
    class Stops(Log):
        def stage(self, text):
            super().stage(text)
            if text.startswith("base: measuring on") and "test rows" in text:
                raise KeyboardInterrupt

    climb = interrupted(words, Stops())
    with Store.open() as store:
        again = Log()
        record = resume(climb, again, store)
        assert record.status == "succeeded" and len(record.verdict["test"]) == 3
    assert again.bench is not None and again.bench.touched == ["base"]


def test_a_finished_climb_and_changed_data_are_refused(words):
    record, _ = go(words, only=["zero_shot"])
    with pytest.raises(ConfigError, match="has finished"):
        resume(record.id)
    with Store.open() as store:
        store.climbs.update(record.id, status="interrupted")
    words.write_text(words.read_text() + '\n{"text": "a new row of rain", "label": "cruel"}')
    with pytest.raises(DataError, match="has changed"):
        resume(record.id)
