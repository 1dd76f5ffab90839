"""The climb itself: what it tries, where it stops, what it may look at, how it keeps to its time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from rung.errors import ConfigError, OutOfTime
from rung.ladder.arms import Arms
from rung.ladder.attempts import attempts_of
from rung.ladder.bar import BASE
from rung.ladder.climb import free_name, task_name
from rung.ladder.cost import Cost
from rung.ladder.forecast import Prediction
from rung.ladder.scorecard import Scorecard, made
from rung.ladder.task_context import TaskContext
from rung.ladder.trials import Trial
from rung.store import Store
from tests.ladder.hill import Log, go, settings, write_words

ORDER = {"zero_shot": 1.0, "linear_probe": 20.0, "lora": 200.0}  # far apart, as tests run anywhere


@pytest.fixture
def words(tmp_path: Path, rung_home: Path) -> Path:
    return write_words(tmp_path / "words.jsonl")


@pytest.fixture
def ordered(monkeypatch: pytest.MonkeyPatch):
    """Say what rungs are predicted to take whole, in place of the arithmetic."""

    def say(wanted: dict[str, float]) -> None:
        real = Arms.prediction

        def predict(self, key, level=None, params=()):
            if key in ("rag", "chain_of_thought"):
                return real(self, key, level, params)
            seconds = wanted.get(key, 0.01) * (level.share if level else 1.0)
            steps = round(100 * (level.share if level else 1.0))
            return Prediction(Cost(seconds=seconds, wall=seconds), steps=steps, tokens=9, parameters=9)

        monkeypatch.setattr(Arms, "prediction", predict)

    say(ORDER)
    return say


def test_it_stops_at_the_first_rung_that_clears(words, ordered):
    log = Log()
    record, rungs = go(words, log, bar="accuracy=0.9")
    assert log.tried() == ["base", "zero_shot", "linear_probe"]
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
    assert log.tried() == ["base", "zero_shot", "lora"]
    assert all(rungs[k].status == "succeeded" for k in log.tried())
    said = record.verdict
    assert said["cleared"] is False and said["cleared_on_validation"] is False
    assert "does not clear accuracy >= 0.9" in said["says"]


def test_all_tries_what_stands_above_the_bar_too(words, ordered):
    log = Log()
    record, rungs = go(words, log, bar="accuracy=0.9", all=True)
    assert log.tried() == ["base", "zero_shot", "linear_probe", "lora"]
    assert record.verdict["winner"] == "linear_probe"
    assert rungs["lora"].metrics["curve"] and rungs["lora"].cost["wall"] > 0


def test_methods_that_fit_are_fitted_for_the_task_that_the_user_names(tmp_path, rung_home):
    """Labels too long to be found as such were none for trees, which the climb then left out."""
    path = write_words(tmp_path / "words.jsonl")
    long = {"kind": "it is a kind word for all", "cruel": "it is a cruel word for many"}
    lines = [{**row, "label": long[row["label"]]} for row in map(json.loads, path.open())]
    rows = [{"prompt": line["text"], "completion": line["label"]} for line in lines]
    path.write_text("\n".join(map(json.dumps, rows)))
    record, rungs = go(path, only=["boosted_trees"], task="classification", bar="accuracy=0.9")
    assert record.verdict["winner"] == "boosted_trees"
    assert rungs["boosted_trees"].status == "succeeded"


def test_predicted_cost_decides_the_order(words, ordered):
    ordered({"zero_shot": 3.0, "linear_probe": 2.0, "lora": 1.0})
    log = Log()
    go(words, log, all=True)
    assert log.tried() == ["base", "lora", "linear_probe", "zero_shot"]


def test_only_winner_runner_up_and_base_see_the_test_rows_and_once(words, ordered):
    log = Log()
    record, rungs = go(words, log, all=True)
    said = record.verdict
    assert log.bench is not None
    assert log.bench.touched == [said["winner"], said["runner_up"], BASE]
    assert {k for k, r in rungs.items() if "test" in r.metrics} == set(log.bench.touched)
    third = (set(ORDER) - {said["winner"], said["runner_up"]}).pop()
    assert "test" not in rungs[third].items
    seen = {e.digest for e in (*log.bench.splits.train, *log.bench.validation)}
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


def test_what_is_odd_about_the_test_rows_is_said_before(words, tmp_path):
    test = tmp_path / "other.jsonl"
    labels = ["odd", "odd", *["kind", "cruel"] * 4]
    rows = [{"text": f"other {i}", "label": label} for i, label in enumerate(labels)]
    test.write_text("\n".join(map(json.dumps, rows)))
    log, given = Log(), settings(words) | {"test_data": str(test)}
    go(words, log, given, only=["zero_shot"])
    assert any(w.startswith("2 test rows have labels that no training row has") for w in log.warnings)


def test_what_does_not_fit_is_a_row_with_the_reason(words):
    log = Log()
    record, rungs = go(words, log, only=["rag", "chain_of_thought", "linear_probe"])
    assert "rag" not in log.tried() and {"base", "linear_probe"} <= set(log.tried())
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


def test_retrieval_is_told_beside_the_answers(tmp_path: Path, rung_home: Path) -> None:
    """By recall on gold passages first, then by answers on a sample; the table shows both."""
    colours = ["red", "blue", "green", "white", "black", "grey", "pink", "brown"]
    parts = [f"part{i}" for i in range(64)]
    manual = tmp_path / "manual"
    manual.mkdir()
    for i, part in enumerate(parts):
        (manual / f"{part}.txt").write_text(f"The {part} of the machine is {colours[i % 8]}.")
    rows = [
        {"question": f"Which colour is the {part} of the machine?", "answer": colours[i % 8]}
        for i, part in enumerate(parts)
    ]
    path = tmp_path / "asked.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    given = settings(path, documents=str(manual), passages=[1], passage_words=20, overlap_words=5)
    record, rungs = go(path, given=given, only=["tfidf", "rag"], all=True)
    assert rungs["rag"].status == "succeeded", rungs["rag"].reason
    assert rungs["rag"].metrics["choice"].endswith("recall@5 1.00")
    with Store.open() as store:
        row = Scorecard.of(store, record).row("rag")
    assert row is not None and "recall@5 1.00" in made(row)


def test_the_curve_is_of_what_the_winner_was_tried_on(words, ordered, monkeypatch):
    """A sample first, since the whole does not fit its part of the time; then all rows."""
    from rung.ladder import levels

    monkeypatch.setattr(levels, "MIN_ROWS", 8)
    ordered({"linear_probe": 40.0})
    record, rungs = go(words, only=["linear_probe"], budget="100s", all=True)
    attempts = attempts_of(rungs["linear_probe"])
    assert [a.level.share for a in attempts] == [1 / 4, 1.0] or attempts[-1].level.share == 1.0
    points = record.verdict["curve"]
    assert [p["rows"] for p in points] == sorted({a.rows for a in attempts})
    assert points[-1]["value"] == rungs["linear_probe"].metrics["validation"]["value"]


def test_seeds_repeat_the_best_settings(words, ordered):
    _, rungs = go(words, only=["lora"], seeds=3)
    seeds = rungs["lora"].metrics["seeds"]
    assert [s["seed"] for s in seeds] == [0, 1, 2]
    assert seeds[0]["value"] == rungs["lora"].metrics["validation"]["value"]
    runs = Store.open().runs.list(model="words-lora")
    kept = next(r for r in runs if r.id == rungs["lora"].run)
    assert kept.config["seed"] == 0
    assert Store.open().models.get("words-lora").run == kept.id


def test_a_seed_that_fails_is_noted_and_the_climb_ends_with_its_verdict(words, ordered, monkeypatch):
    from rung.ladder.trials import Trial

    def failing(self, config, seed):
        raise MemoryError("no room")

    monkeypatch.setattr(Trial, "repeat", failing)
    log = Log()
    record, rungs = go(words, log, only=["lora"], seeds=2)
    assert record.status == "succeeded" and record.verdict["winner"] == "lora"
    assert "seeds" not in rungs["lora"].metrics
    assert any("lora with seed 1: out of memory" in note for note in log.notes)


# --- time ---------------------------------------------------------------------------------------


def test_a_training_that_does_not_fit_is_tried_on_fewer_steps_and_says_so(words, ordered):
    ordered({"lora": 120.0})
    given = settings(words)
    del given["steps"]
    record, rungs = go(words, given=given, only=["lora"], budget="100s", trials=1)
    first = attempts_of(rungs["lora"])[0]
    assert first.level.share < 1 and first.steps == round(100 * first.level.share)
    assert first.steps_of and first.steps < first.steps_of
    run = Store.open().runs.get(first.run or "")
    assert run.config["steps"] == first.steps


def test_settings_are_tried_where_there_is_time_and_the_best_stays(words, ordered):
    _, rungs = go(words, only=["lora"], trials=3, all=True)
    attempts = attempts_of(rungs["lora"])
    rates = {a.params.get("lr") for a in attempts}
    assert len(rates) == 3 and None in rates
    best = max(a.measured.value for a in attempts)
    assert rungs["lora"].metrics["validation"]["value"] == best


def test_a_rung_of_which_not_even_a_sample_fits_is_skipped_with_the_reason(words, ordered):
    ordered({"zero_shot": 1.0, "linear_probe": 9000.0, "lora": 50000.0})
    log = Log()
    record, rungs = go(words, log, budget="120s", given=settings(words, steps=8))
    assert log.tried() == ["base", "zero_shot"]
    for key in ("linear_probe", "lora"):
        assert rungs[key].status == "cancelled" and "no time" in (rungs[key].reason or "")
    said = " ".join(record.verdict["next"])
    assert "nothing is known of them: linear_probe, lora" in said
    assert "better" not in said and "larger base" not in said


def test_an_attempt_that_takes_far_longer_than_it_should_ends_and_is_told(words, ordered, monkeypatch):
    from rung.methods import get

    def slow(self, study, config):
        while not study.stopping():
            time.sleep(0.05)
        raise AssertionError("asked to stop by nobody")

    monkeypatch.setattr(type(get("linear_probe")), "fit", slow)
    monkeypatch.setattr("rung.ladder.attempts.LEAST_SHARE", 0.01)
    ordered({"zero_shot": 9.0, "linear_probe": 0.1, "lora": 9.0})
    began = time.monotonic()
    record, rungs = go(words, all=True, budget="60s")
    assert time.monotonic() - began < 66
    assert rungs["linear_probe"].status == "cancelled"
    assert "was not done within" in (rungs["linear_probe"].reason or "")
    assert rungs["zero_shot"].status == "succeeded"
    assert record.verdict["winner"] in ("zero_shot", "lora")


@pytest.mark.slow  # by real seconds; test_budget.py holds the same by a clock of its own
def test_the_end_comes_within_the_budget_when_test_rows_are_slow(words, ordered, monkeypatch):
    """On fewer test rows, or none: the verdict says on how many."""
    answer = TaskContext.answer_test

    def slow(self, opened, model, rows, stopping=None):
        for _ in range(300):
            time.sleep(0.1)
            if stopping is not None:
                stopping()
        return answer(self, opened, model, rows, stopping)

    monkeypatch.setattr(TaskContext, "answer_test", slow)
    began = time.monotonic()
    record, _ = go(words, only=["zero_shot"], budget="20s")
    assert time.monotonic() - began < 24  # opening the base counts too
    assert "validation rows" in record.verdict["says"] and not record.verdict["test"]


def test_a_model_that_cannot_be_asked_a_test_row_does_not_end_the_climb(words, ordered, monkeypatch):
    from rung.engine.request import ContextExceeded

    answer = TaskContext.answer_test

    def refuses(self, opened, model, rows, stopping=None):
        if model.name == "base":
            raise ContextExceeded("a row is too long")
        return answer(self, opened, model, rows, stopping)

    monkeypatch.setattr(TaskContext, "answer_test", refuses)
    record, _ = go(words, only=["zero_shot"])
    assert record.status == "succeeded" and set(record.verdict["test"]) == {"zero_shot"}


def test_out_of_time_is_an_error_that_says_so():
    assert str(OutOfTime("its time was over")) == "its time was over"


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


def test_a_training_that_time_ends_has_a_figure_and_says_how_far_it_came(words, monkeypatch):
    """Its time was over at once, and once: what was tried in vain is not tried again."""
    planned = Trial.plan

    def hurried(self):
        plan = planned(self)
        plan.train.seconds = 1e-9
        return plan

    monkeypatch.setattr(Trial, "plan", hurried)
    log = Log()
    record, rungs = go(words, log, settings(words, steps=6), only=["lora"], all=True)
    lora = rungs["lora"]
    assert lora.status == "succeeded" and lora.metrics["validation"]["n"] > 0, lora.reason
    assert (lora.metrics["steps"], lora.metrics["cut_from"]) == (1, 6)
    assert lora.metrics["share"] == pytest.approx(1 / 6)
    (attempt,) = attempts_of(lora)
    assert attempt.late and attempt.steps_of == 6 and log.tried().count("lora") == 1
    with Store.open() as store:
        row = Scorecard.of(store, record).row("lora")
    assert row is not None and "1/6 steps" in made(row)
