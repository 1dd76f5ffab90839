"""The budget is a promise: by a clock of its own, whatever attempts really take."""

from __future__ import annotations

import dataclasses
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rung.errors import OutOfTime
from rung.evals.answers import Answers
from rung.evals.measure import measure
from rung.evals.tasks import reply
from rung.ladder import attempts as attempts_module
from rung.ladder import controller, examination, first_figures, task_context, trials
from rung.ladder.answers import kept_items, one_answer
from rung.ladder.arms import Arms
from rung.ladder.attempts import Attempt, attempts_of
from rung.ladder.bar import BASE
from rung.ladder.climb import climb
from rung.ladder.controller import ClimbController
from rung.ladder.cost import Cost
from rung.ladder.examination import Examination
from rung.ladder.first_figures import FirstFigure
from rung.ladder.forecast import Forecaster, Prediction
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.levels import Level
from rung.ladder.report import render
from rung.ladder.scheme import Step
from rung.ladder.scorecard import Scorecard, cells
from rung.ladder.task_context import TaskContext
from rung.ladder.trials import Trial
from rung.store import Store
from rung.store.climbs import ClimbRecord, RungRecord
from tests.ladder.hill import rungs_of, settings, write_words

OPENING, REPORT = 3.0, 1.5  # seconds of reading and imports; of the report behind the climb
PASS = 1.0  # seconds by which an attempt notices late that its time is over
RUNGS = ["tfidf", "zero_shot", "few_shot", "linear_probe", "last_layers", "lora", "full"]


class World:
    """Seconds pass when something is done, as many as a draw says."""

    def __init__(self, seed: int, slower: float):
        self.draw, self.slower, self.at = random.Random(seed), slower, 1000.0
        self.whole = {key: 10 ** self.draw.uniform(0, 3.3) for key in RUNGS}
        self.whole["tfidf"] = 1.0
        self.good = {key: self.draw.uniform(0.4, 0.95) for key in (*RUNGS, BASE)}
        self.constant: set[str] = set()  # rungs that give one answer to every row
        self.answer = 10 ** self.draw.uniform(-3, 0)

    def now(self) -> float:
        return self.at

    def takes(self, expected: float, limit: float) -> float:
        """Pass the seconds that something takes.

        Raises:
            OutOfTime: after the limit, noticed up to a pass late.
        """
        real = expected * self.slower * self.draw.uniform(0.5, 1.5)
        if real > limit:
            self.at += limit + self.draw.uniform(0, PASS)
            raise OutOfTime("its time was over")
        self.at += real
        return real

    def predict(self, key: str, share: float, held: int) -> Prediction:
        making = self.whole.get(key, 0.0) * share
        each = self.answer if key != "tfidf" else 0.0
        cost = Cost(seconds=making, wall=making + held * each, request_seconds=each)
        return Prediction(cost, each, round(400 * share), 9, 9, held)

    def measured(self, bench: TaskContext, key: str, rows: Any) -> tuple[Answers, Any]:
        wrong = list(bench.task.labels)
        if key in self.constant:
            answers = Answers([wrong[0]] * len(rows))
            return answers, measure(answers, rows, bench.task)
        texts = [
            str(reply(e)) if self.draw.random() < self.good[key] else self.draw.choice(wrong)
            for e in rows
        ]
        answers = Answers(texts)
        return answers, measure(answers, rows, bench.task)


def worlds(count: int, few: int) -> list[Any]:
    """Seeds of that many worlds, of which all but a few are slow."""
    return [pytest.param(s, marks=[] if s < few else pytest.mark.slow) for s in range(count)]


@pytest.fixture
def words(tmp_path: Path, rung_home: Path) -> Path:
    return write_words(tmp_path / "words.jsonl")


@pytest.fixture
def under(monkeypatch: pytest.MonkeyPatch):
    """Put a climb into a world."""

    def put(world: World) -> None:
        for module in (controller, examination, first_figures, trials, attempts_module):
            monkeypatch.setattr(module, "now", world.now)

        def prediction(self: Arms, key: str, level: Any = None, params: Any = ()) -> Prediction:
            share, held = (level.share, level.held) if level else (1.0, len(self.bench.validation))
            return world.predict(key, share, held)

        def attempt(self: Trial) -> RungRecord:
            level = self.step.level
            world.takes(self.prediction.cost.wall, self.limit)
            rows = self.bench.validation[: level.held]
            answers, measured = world.measured(self.bench, self.rung.key, rows)
            done = Attempt(
                params=dict(self.step.params), level=level, rows=self.rows, measured=measured
            )
            kept = [*attempts_of(self.record), done]
            metrics = {"validation": measured.as_dict(), "share": level.share, "rows": self.rows,
                       "rows_of": len(self.bench.splits.train),
                       "only": one_answer(answers, self.bench.task)}  # fmt: skip
            return dataclasses.replace(
                self.record, metrics=metrics, trials={"done": [a.as_dict() for a in kept]},
                items={"validation": kept_items(answers, measured)}, cost=Cost(seconds=1).as_dict(9),
            )  # fmt: skip

        def base(
            bench: TaskContext, record: RungRecord, held: int, limit: float, loading: float
        ) -> Any:
            world.takes(held * world.answer, limit)
            answers, measured = world.measured(bench, BASE, bench.validation[:held])
            done = Attempt(params={}, level=attempts_module.Level(1.0, held), measured=measured)
            items = {"validation": kept_items(answers, measured)}
            return dataclasses.replace(
                record, metrics={"validation": measured.as_dict()}, items=items,
                trials={"done": [done.as_dict()]}, cost=Cost().as_dict(9),
            ), world.answer  # fmt: skip

        def test_rows(self: Examination, key: str, rows: int, until: float) -> Any:
            each = self.bench.forecaster and world.predict(key, 1.0, 1).answer_seconds
            world.takes(min(rows, len(self.bench.test)) * each, max(0.0, until - world.at))
            return world.measured(self.bench, key, self.bench.test[:rows])[1]

        def first(bench: TaskContext, rung: Any, until: float, note: Any) -> FirstFigure | None:
            world.at += 2.0
            return None

        def load(self: ClimbController) -> None:
            world.at += 5.0

        for owner, name, value in (
            (Arms, "prediction", prediction), (Trial, "run", attempt),
            (Examination, "_measure", test_rows),
            (controller, "base_as_it_is", base), (controller, "without_base", first),
            (ClimbController, "_load", load), (Forecaster, "learn", lambda *_: None),
            (controller, "settle_threads", lambda _: 1),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, value)

    return put


def go(
    words: Path, world: World, budget: str, **knobs: Any
) -> tuple[ClimbRecord, dict[str, RungRecord]]:
    """A climb in that world; its seconds with opening and report."""
    kept = {"only": RUNGS, "skip": ["linear_probe-minilm"], "requests": 9, **knobs}
    with Store.open() as store:
        began = world.at
        world.at += OPENING
        record = climb(
            "words", settings(words, steps=None), ClimbKnobs(budget=budget, **kept), store=store,
            began=began,
        )  # fmt: skip
        return record, rungs_of(store, record.id)


@pytest.mark.parametrize("budget", ["1m", "5m", "20m"])
@pytest.mark.parametrize("slower", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("seed", worlds(4, 2))
def test_a_climb_ends_within_its_budget_and_a_tenth(words, under, budget, slower, seed):
    world = World(seed, slower)
    under(world)
    began = world.at
    record, rungs = go(words, world, budget, trials=2)
    seconds = world.at - began + REPORT
    assert seconds <= 1.1 * ClimbKnobs(budget=budget).budget.seconds
    assert record.settings["spent"] == pytest.approx(world.at - began)
    assert record.verdict["winner"] is not None and record.verdict["test"]
    for key, row in rungs.items():  # what has no figure says why, and claims nothing
        assert "validation" in row.metrics or row.reason, key


@pytest.mark.parametrize("seed", worlds(12, 6))
def test_no_rung_that_was_tried_beats_the_winner_on_the_same_rows(words, under, seed):
    world = World(seed, 1.0)
    under(world)
    record, rungs = go(words, world, "20m")
    from rung.ladder.choice import beats, standings

    found = {s.key: s for s in standings(list(rungs.values()))}
    winner = found[record.verdict["winner"]]
    beaten = [s for s in found.values() if beats(s, winner)]
    # In a circle of rungs each of which beats the next, on rows of their own, any may win.
    assert not beaten or all(any(beats(o, s) for o in found.values()) for s in found.values())


@pytest.mark.parametrize("budget", ["1m", "5m"])
@pytest.mark.parametrize("seed", worlds(6, 3))
def test_a_rung_is_skipped_only_where_not_even_a_sample_fits(words, under, monkeypatch, budget, seed):
    world = World(seed, 1.0)
    under(world)
    ends: list[tuple[float, dict[str, float]]] = []
    choose = ClimbController._next

    def told(self: ClimbController) -> Any:
        step = choose(self)
        if step is None:
            lowest = {key: self.arms.lowest(key) for key in self.rungs}
            ends.append((self.left - self._reserve(), lowest))
        return step

    monkeypatch.setattr(ClimbController, "_next", told)
    _, rungs = go(words, world, budget)
    ((left, lowest),) = ends
    for key, row in rungs.items():
        if row.status == "cancelled" and (row.reason or "").startswith("no time"):
            assert lowest[key] > left, f"{key} would take {lowest[key]:.1f} of {left:.1f} s"


CLAIMS = ("no better", "larger base is what", "unlikely to help")  # of what was not tried


def told(record: ClimbRecord) -> str:
    return " ".join([record.verdict["says"], *record.verdict["next"]])


@pytest.mark.parametrize("seed", worlds(4, 2))
def test_on_a_hopeless_base_the_baseline_wins_and_one_answer_is_called_that(words, under, seed):
    world = World(seed, 1.0)
    world.constant = set(RUNGS) - {"tfidf"} | {BASE}
    world.good["tfidf"] = 0.8
    under(world)
    record, rungs = go(words, world, "20m")
    assert record.verdict["winner"] == "tfidf"
    tried = [key for key in world.constant & set(rungs) if rungs[key].metrics and key != BASE]
    assert tried and all(rungs[key].metrics["only"] for key in tried)
    assert "beats it" in told(record) and "it has learned nothing" not in record.verdict["says"]


@pytest.mark.parametrize("seed", worlds(4, 2))
def test_where_others_take_the_machine_nothing_untried_is_judged(words, under, seed):
    world = World(seed, 8.0)
    world.whole |= {key: 100.0 for key in RUNGS if key != "tfidf"}
    under(world)
    record, rungs = go(words, world, "1m")
    untried = [k for k, r in rungs.items() if "validation" not in r.metrics and k != BASE]
    assert untried and record.verdict["winner"] is not None
    assert not any(claim in told(record) for claim in CLAIMS)
    heads = r"(?:nothing is known of them|before they were measured): ([^.]+)\."
    named = ", ".join(re.findall(heads, told(record))).split(", ")
    assert set(untried) - {k for k in untried if rungs[k].status == "failed"} == set(named)


def test_a_budget_that_allows_nothing_claims_nothing(words, under):
    world = World(0, 1.0)
    world.whole |= dict.fromkeys(RUNGS, 1e6)
    under(world)
    record, rungs = go(words, world, "30s")
    assert record.verdict["winner"] is None and not any(r.model for r in rungs.values())
    assert "No rung was tried within --budget 30s: nothing can be said of them." in told(record)
    assert not any(claim in told(record) for claim in CLAIMS)


def test_a_rung_above_the_cleared_bar_is_not_tried_and_not_judged(words, under):
    world = World(1, 1.0)
    world.good |= {"tfidf": 0.5, "linear_probe": 0.9, "full": 1.0}
    world.whole |= {"linear_probe": 5.0, "full": 200.0, "lora": 150.0}
    under(world)
    record, rungs = go(words, world, "20m", bar="accuracy=0.75", only=["tfidf", "linear_probe", "full"])
    assert record.verdict["winner"] == "linear_probe" and record.verdict["cleared_on_validation"]
    assert "validation" not in rungs["full"].metrics
    assert "Not tried, since linear_probe clears the bar on validation: full" in told(record)


def test_where_the_base_could_not_be_loaded_in_time_the_baseline_is_told(words, rung_home):
    with Store.open() as store:
        began = controller.now() - 25.0  # imports and reading took that long
        knobs = ClimbKnobs(budget="40s", only=["tfidf", "zero_shot"], requests=9)
        record = climb("words", settings(words), knobs, store=store, began=began)
        rungs = rungs_of(store, record.id)
        card = Scorecard.of(store, record)
        assert "could not have been loaded" in render(store, card)
        assert all(cells(row) for row in card.rows)
    assert record.status == "succeeded" and record.settings["spent"] <= 1.1 * 40
    assert record.verdict["winner"] == "tfidf" and record.verdict["model"] is None
    assert "validation rows" in record.verdict["says"]
    assert "nothing is known of them: zero_shot" in told(record)
    assert rungs["zero_shot"].status == rungs[BASE].status == "cancelled"
    assert "the base could not have been loaded" in (rungs["zero_shot"].reason or "")


def test_fetching_a_base_does_not_make_it_slow_to_load(words, rung_home, monkeypatch):
    found = task_context.find_base

    def slowly(*given):
        clock[0] += 25.0  # it is fetched and converted, once
        return found(*given)

    clock, real = [0.0], controller.now
    for module in (controller, task_context):
        monkeypatch.setattr(module, "now", lambda: real() + clock[0])
    monkeypatch.setattr(task_context, "find_base", slowly)
    with Store.open() as store:
        knobs = ClimbKnobs(budget="50s", only=["tfidf", "zero_shot"], requests=9)
        record = climb("words", settings(words), knobs, store=store, began=real())
        assert rungs_of(store, record.id)[BASE].status == "succeeded"


@pytest.mark.parametrize(("sample", "said"), [(41.0, "no time left of"), (4100.0, "no time: a sample")])
def test_what_had_no_time_says_whether_there_was_ever_enough(monkeypatch, sample, said):
    arms = object.__new__(Arms)
    arms.bench = SimpleNamespace(knobs=ClimbKnobs(budget="20m"))
    monkeypatch.setattr(Arms, "lowest", lambda self, key: sample)
    told = arms.out_of_time("lora")
    assert told.startswith(said) and f"about {sample:.0f} s" in told


@pytest.mark.parametrize(
    ("trained", "making", "each", "seconds"),
    [
        (True, 25.0, 0.2, 100 - 1.5 * 22),  # measuring takes 22 s, and half of that more at most
        (True, 70.0, 0.2, 70.0),  # what making is expected to take is not taken from it
        (True, 90.0, 0.2, 100 - 22.0),
        (True, 25.0, 5.0, 50.0),
        (False, 25.0, 0.2, 100.0),  # a fit that is ended gives nothing that could be measured
    ],
)
def test_a_training_leaves_time_to_be_measured(trained, making, each, seconds):
    plan = SimpleNamespace(train=SimpleNamespace(seconds=None, steps=None))
    trial: Any = object.__new__(Trial)
    trial.bench = SimpleNamespace(plan=lambda name, rung: plan)
    trial.rung = SimpleNamespace(method=SimpleNamespace(trained=trained))
    trial.step = Step("lora", (), Level(0.25, 100), 60.0, "first")
    cost = Cost(seconds=making, request_seconds=0.5)
    trial.prediction = Prediction(cost, answer_seconds=each, steps=10, held=100)
    trial.limit, trial.name = 100.0, "words-lora"
    assert trial.plan().train.seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("trained", "at", "until"),
    [
        (True, 1098.0, 1098.0 + 2.5 * 22),  # its last step ended late: what was spared is gone
        (True, 1030.0, 1100.0),  # there is time enough
        (True, 1170.0, 1200.0),  # and no more than the climb has
        (False, 1098.0, 1100.0),  # answers that are slow without a training would take all of it
    ],
)
def test_a_training_is_measured_while_the_climb_has_time(monkeypatch, trained, at, until):
    trial: Any = object.__new__(Trial)
    trial.rung = SimpleNamespace(method=SimpleNamespace(trained=trained))
    trial.step = Step("lora", (), Level(0.25, 100), 60.0, "first")
    cost = Cost(seconds=25.0, request_seconds=0.5)
    trial.prediction = Prediction(cost, answer_seconds=0.2, steps=10, held=100)
    trial.limit, trial.room = 100.0, 200.0
    monkeypatch.setattr(trials, "now", lambda: at)
    assert trial._measured_until(1000.0) == pytest.approx(until)


def test_what_a_cut_training_would_have_taken_whole_is_learned():
    cut = Attempt(params={}, level=Level(1.0, 10), steps=50, steps_of=400, making=20.0, late=True)
    assert cut.making_all(400) == pytest.approx(160.0)
    ended = dataclasses.replace(cut, late=False)  # early, since validation no longer rose
    assert ended.making_all(400) == 20.0
    assert dataclasses.replace(cut, steps=None, steps_of=None).making_all(0) == 20.0


def test_the_time_that_rendering_takes_is_taken_from_the_training(monkeypatch):
    plan: Any = SimpleNamespace(train=SimpleNamespace(seconds=60.0))
    monkeypatch.setattr(trials, "now", lambda: 1040.0)  # of an attempt that is to train until 1070
    trials.Deadline(plan, 1070.0).begin(100, 0)
    assert plan.train.seconds == 30.0
    trials.Deadline(plan, 1500.0).begin(100, 0)
    assert plan.train.seconds == 30.0
    trials.Deadline(plan, 1000.0).begin(100, 0)
    assert plan.train.seconds == trials.LEAST_SECONDS
    plan.train.seconds = 60.0
    trials.Deadline(plan, 1070.0).begin(100, 20)  # goes on: its seconds count what it had before
    assert plan.train.seconds == 60.0
