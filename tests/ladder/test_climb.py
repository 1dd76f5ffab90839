"""The climb itself: where it stops, what it may look at, what it skips, how it shares its time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rung.ladder.budget import shares, short_of_time

from rung.errors import ConfigError
from rung.evals.measure import Measured
from rung.ladder import controller as climbing
from rung.ladder.bar import BASE, Bar
from rung.ladder.climb import free_name, task_name
from rung.ladder.cost import Cost
from rung.ladder.forecast import Prediction
from rung.ladder.verdict import Standing, says
from rung.store import Store
from rung.store.climbs import RungRecord
from tests.ladder.hill import Log, go, settings, write_words

ORDER = {"zero_shot": 1.0, "linear_probe": 2.0, "lora": 3.0}


@pytest.fixture
def words(tmp_path: Path, rung_home: Path) -> Path:
    return write_words(tmp_path / "words.jsonl")


@pytest.fixture
def ordered(monkeypatch: pytest.MonkeyPatch):
    """Say what rungs are predicted to take, in place of a trial."""

    def say(wanted: dict[str, float]) -> None:
        def predict(bench, rung):
            seconds = wanted[rung.key]
            return Prediction(Cost(seconds, seconds), steps=100, tokens=1000, parameters=10)

        monkeypatch.setattr(climbing, "predict_rung", predict)

    say(ORDER)
    return say


def test_it_stops_at_the_first_rung_that_clears(words, ordered):
    log = Log()
    record, rungs = go(words, log, bar="accuracy=0.9")
    assert log.tried() == ["zero_shot", "linear_probe"]
    assert rungs["zero_shot"].metrics["validation"]["value"] < 0.9
    assert rungs["linear_probe"].metrics["validation"]["value"] >= 0.9
    assert rungs["lora"].status == "queued" and not rungs["lora"].metrics
    said = record.verdict
    assert said["winner"] == "linear_probe" and said["cleared_on_validation"]
    assert said["model"] == "words-linear_probe"
    assert Store.open().models.get("words-linear_probe").method == "linear_probe"


def test_it_goes_on_where_nothing_clears_and_says_so(words, ordered):
    log = Log()
    record, rungs = go(words, log, bar="accuracy=0.9", only=["zero_shot", "lora"])
    assert log.tried() == ["zero_shot", "lora"]
    assert all(rungs[k].status == "succeeded" for k in log.tried())
    said = record.verdict
    assert said["cleared"] is False and said["cleared_on_validation"] is False
    assert "does not clear accuracy >= 0.9" in said["says"]


def test_all_tries_what_stands_above_the_bar_too(words, ordered):
    log = Log()
    record, rungs = go(words, log, bar="accuracy=0.9", all=True)
    assert log.tried() == ["zero_shot", "linear_probe", "lora"]
    assert record.verdict["winner"] == "linear_probe"
    assert rungs["lora"].metrics["curve"] and rungs["lora"].cost["wall"] > 0


def test_predicted_cost_decides_the_order(words, ordered):
    ordered({"zero_shot": 3.0, "linear_probe": 2.0, "lora": 1.0})
    log = Log()
    go(words, log, all=True)
    assert log.tried() == ["lora", "linear_probe", "zero_shot"]


def test_what_may_never_be_reached_is_not_tried_out_before(words, ordered):
    """A classifier that costs less than the base's own answers goes first, and may be all there is."""
    ordered({"zero_shot": 1e4, "linear_probe": 0.001, "lora": 1e4})
    log = Log()
    _, rungs = go(words, log, bar="accuracy=0.9", requests=1000)
    assert log.tried() == ["linear_probe"]
    assert rungs["linear_probe"].predicted
    for key in ("zero_shot", "lora"):
        assert not rungs[key].predicted and rungs[key].status == "queued"


def test_only_winner_runner_up_and_base_see_the_test_rows_and_once(words, ordered):
    log = Log()
    record, rungs = go(words, log, all=True)
    said = record.verdict
    assert log.bench is not None
    assert log.bench.touched == [said["winner"], said["runner_up"], BASE]
    assert {k for k, r in rungs.items() if "test" in r.metrics} == set(log.bench.touched)
    third = (set(ORDER) - {said["winner"], said["runner_up"]}).pop()
    assert "test" not in rungs[third].items
    seen = {e.digest for e in (*log.bench.opened.splits.train, *log.bench.validation)}
    assert not seen & {e.digest for e in log.bench.test}


def test_every_figure_has_its_interval(words, ordered):
    record, rungs = go(words, all=True)
    for rung in rungs.values():
        for figure in (v for k, v in rung.metrics.items() if k in ("validation", "test")):
            assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
            assert figure["low"] < figure["high"] and figure["n"] > 0


def test_a_small_test_part_is_said_before_and_promises_nothing(words, ordered):
    log = Log()
    record, _ = go(words, log, bar="accuracy=0.99", only=["linear_probe"])
    assert any(w.startswith("the test part has") and "cannot tell" in w for w in log.warnings)
    assert record.verdict["cleared"] is True
    assert "the bar lies within the 95% interval" in record.verdict["says"]


def test_what_does_not_fit_is_a_row_with_the_reason(words):
    log = Log()
    record, rungs = go(words, log, only=["rag", "chain_of_thought", "linear_probe"])
    assert log.tried() == ["linear_probe"]
    assert record.status == "succeeded" and record.verdict["winner"] == "linear_probe"
    for key, why in (("rag", "--documents"), ("chain_of_thought", "--reasoning-tokens")):
        assert rungs[key].status == "cancelled" and why in (rungs[key].reason or "")


def test_a_rung_that_fails_does_not_end_the_climb(words, ordered, monkeypatch):
    from rung.methods import get

    def broken(*_):
        raise RuntimeError("the probe fell over")

    monkeypatch.setattr(type(get("linear_probe")), "fit", broken)
    record, rungs = go(words, all=True)
    assert rungs["linear_probe"].status == "failed"
    assert "the probe fell over" in (rungs["linear_probe"].reason or "")
    assert rungs["lora"].status == "succeeded" and record.verdict["winner"] in ("zero_shot", "lora")


def test_the_curve_is_of_the_winner_on_less_data(words, ordered):
    record, _ = go(words, bar="accuracy=0.9")
    points = record.verdict["curve"]
    assert [p["share"] for p in points] == [0.25, 0.5, 1.0]
    assert points[0]["rows"] < points[1]["rows"] < points[2]["rows"]
    assert any(line.startswith("accuracy") and "rows" in line for line in record.verdict["next"])
    assert "Higher rungs were not tried" in record.verdict["next"][-1]


def test_seeds_repeat_the_best_settings(words, ordered):
    _, rungs = go(words, only=["lora"], seeds=3)
    seeds = rungs["lora"].metrics["seeds"]
    assert [s["seed"] for s in seeds] == [0, 1, 2]
    assert seeds[0]["value"] == rungs["lora"].metrics["validation"]["value"]
    runs = Store.open().runs.list(model="words-lora")
    kept = next(r for r in runs if r.id == rungs["lora"].run)
    assert kept.config["seed"] == 0
    assert Store.open().models.get("words-lora").run == kept.id


# --- time ---------------------------------------------------------------------------------------


def test_time_is_shared_so_that_the_last_has_its_part():
    assert shares({"a": 1, "b": 100, "c": 100}, 101) == {"a": 1, "b": 50, "c": 50}
    assert shares({"a": 10, "b": 20}, 50) == {"a": 20, "b": 30}
    assert shares({"a": 10}, -5) == {"a": 0}


def test_a_training_is_cut_to_the_budget_and_no_trial_begins_that_would_not_end(words, ordered):
    ordered({"lora": 1000.0})
    given = settings(words)
    del given["steps"]
    record, rungs = go(words, given=given, only=["lora"], budget="200s", trials=5)
    assert len(rungs["lora"].trials["done"]) > 1  # it was far quicker than predicted
    run = Store.open().runs.get(rungs["lora"].run or "")
    assert 15 <= run.config["steps"] <= 17  # of 100 predicted, what 170 of 1,000 seconds hold
    assert rungs["lora"].metrics["cut_from"] == 100
    assert record.verdict["next"][-1].startswith("--budget 200s cut the training of lora short; ")


def test_a_training_with_time_for_all_its_steps_is_not_called_cut(words, ordered):
    record, rungs = go(words, only=["lora"])
    assert rungs["lora"].metrics["cut_from"] is None
    assert not any("cut the training" in line for line in record.verdict["next"])


def test_the_budget_that_would_have_done_holds_what_was_cut_and_the_end():
    def rung(key, predicted, took, whole):
        cost = {"wall": took}
        return RungRecord(
            "c", key, "m", predicted={"wall": predicted}, cost=cost, metrics={"cut_from": whole}
        )

    rows = [rung("a", 400.0, 100.0, 576), rung("b", 50.0, 60.0, None), rung("c", 310.0, 100.0, 384)]
    said = short_of_time(rows, 1020.0 - 510.0, "10m")
    assert said == "--budget 10m cut the training of a, c short; --budget 20m would not."
    skipped = RungRecord("c", "d", "m", status="cancelled", predicted={"wall": 510.0})
    assert "; --budget 30m would not." in short_of_time([*rows, skipped], 510.0, "10m")
    assert short_of_time(rows[1:2], 100.0, "10m") is None


def test_a_rung_without_time_is_skipped_with_the_reason(words, ordered):
    ordered({"zero_shot": 1.0, "linear_probe": 900.0, "lora": 5000.0})
    log = Log()
    record, rungs = go(words, log, budget="20s")
    assert log.tried() == ["zero_shot"]
    for key in ("linear_probe", "lora"):
        assert rungs[key].status == "cancelled" and "no time" in (rungs[key].reason or "")


# --- the verdict --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("validation", "test", "expected"),
    [
        (0.95, 0.95, "all of the 95% interval does"),
        (0.95, 0.84, "It misses accuracy >= 0.86 on the test rows, though within"),
        (0.60, 0.60, "No rung clears accuracy >= 0.86 on validation; this one comes closest. It does"),
    ],
)
def test_the_verdict_says_whether_validation_had_cleared_the_bar(validation, test, expected):
    def measured(value):
        items = np.arange(100) < 100 * value
        return Measured("accuracy", value, value - 0.05, value + 0.05, 100, items, items)

    winner = Standing(RungRecord("c", "lora", "lora"), measured(validation))
    said = says(Bar.parse("accuracy=0.86"), winner, measured(test), {})
    assert expected in said
    assert ("No rung" in said) == (validation < 0.86)


# --- names --------------------------------------------------------------------------------------


def test_an_earlier_climb_is_not_replaced_unless_asked(words, ordered):
    from rung.ladder.climb import climb
    from rung.ladder.knobs import ClimbKnobs

    go(words, only=["zero_shot"])
    with pytest.raises(ConfigError, match="--replace"):
        go(words, only=["zero_shot"])
    with Store.open() as store:
        assert free_name("words", store) == "words-2" and free_name("others", store) == "others"
        knobs = ClimbKnobs(only=["zero_shot"], requests=10)
        again = climb("words", settings(words), knobs, store=store, replace=True)
    assert again.verdict["model"] == "words-zero_shot"


@pytest.mark.parametrize(
    "source, name",
    [
        ("wheel:evals/evals/registry/data/sarcasm/samples.jsonl", "sarcasm"),
        ("hf:stanfordnlp/imdb", "imdb"),
        ("/data/my tickets.csv", "my-tickets"),
    ],
)
def test_data_names_the_task(source, name):
    assert task_name(source) == name
