"""What is predicted, how, and that a trial leaves nothing behind."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from rung import methods
from rung.home import home
from rung.ladder import forecast, task_context
from rung.ladder.forecast import computed, predict_rung
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.meter import Meter
from rung.ladder.plan import plan
from rung.ladder.rungs import Rung, all_rungs
from rung.ladder.task_context import TaskContext
from rung.methods.base import Fitted
from rung.store import Store
from rung.train.prepare import prepare
from rung.types import Rendered
from tests.cli.conftest import Ask, ask
from tests.ladder.hill import SCRATCH, go, settings, write_words

__all__ = ["ask"]
LOW, HIGH = 0.010, 0.050  # seconds of a row, and of a fit, of the method that only sleeps


@pytest.fixture
def words(tmp_path: Path, rung_home: Path) -> Path:
    return write_words(tmp_path / "words.jsonl")


def bench(words: Path, **given: Any) -> TaskContext:
    return TaskContext.open(settings(words, **given), ClimbKnobs(), lambda _: None)


def rung(found: TaskContext, key: str) -> Rung:
    return next(r for r in all_rungs(found.task) if r.key == key)


def test_tokens_that_rows_share_at_their_beginning_count_once() -> None:
    rows = [Rendered(ids, (True,) * len(ids)) for ids in ((1, 2, 3), (1, 2, 4, 5), (7,), (1, 2, 3))]
    assert computed(rows) == 3 + 2 + 1
    assert computed([]) == 0


class Sleeper(type(methods.get("zero_shot"))):  # type: ignore[misc]
    """Takes a known time for each validation row, and some for the whole."""

    seen: list[tuple[int, int]]

    def reads(self, config: Any, train: int, validation: int) -> tuple[int, int]:
        return 0, min(validation, 30)

    def holds(self, bank: Any, config: Any, rows: int, tokens: int) -> int:
        return 1_000_000 * rows

    def fit(self, study: Any, config: Any) -> Fitted:
        from rung.forward.adapter import Adapter

        rows = min(len(study.validation), 30)
        self.seen.append((len(study.train), rows))
        time.sleep(HIGH + LOW * rows)
        return Fitted(Adapter())


def test_a_fit_is_scaled_up_by_the_rows_that_it_reads(words: Path, monkeypatch: Any) -> None:
    found = bench(words)
    sleeper = Sleeper("zero_shot")
    sleeper.seen = []
    peaks: list[int] = []
    peak = Meter.peak
    monkeypatch.setattr(Meter, "peak", lambda meter: (peaks.append(peak(meter)), peaks[-1])[1])
    told = predict_rung(found, Rung("zero_shot", sleeper))
    most = min(len(found.validation), 30)
    # All training rows are there to look at; validation rows are few, and never more than it reads.
    assert {train for train, _ in sleeper.seen} == {len(found.opened.splits.train)}
    assert [held for _, held in sleeper.seen] == [forecast.FEW, forecast.FEW, most, most]
    assert told.cost.seconds == pytest.approx(HIGH + LOW * most, rel=0.25)
    assert told.cost.bytes == peaks[0]  # nothing more is held than in the last trial


def test_what_measuring_takes_is_told_from_some_answers(words: Path, monkeypatch: Any) -> None:
    found = bench(words)
    asked: list[int] = []

    def answer(self: Any, opened: Any, model: Any, examples: Any) -> None:
        asked.append(len(examples))
        time.sleep(LOW * len(examples))

    monkeypatch.setattr(TaskContext, "answer", answer)
    sleeper = Sleeper("zero_shot")
    sleeper.seen = []
    told = predict_rung(found, Rung("zero_shot", sleeper))
    assert asked == [task_context.ANSWERED] and len(found.validation) > task_context.ANSWERED
    expected = LOW * len(found.validation)
    assert told.cost.wall - told.cost.seconds == pytest.approx(expected, rel=0.25)


def test_memory_grows_with_the_rows_that_are_held(words: Path, monkeypatch: Any) -> None:
    found = bench(words)
    monkeypatch.setattr(forecast, "MORE", forecast.FEW + 1)
    sleeper = Sleeper("zero_shot")
    sleeper.seen = []
    own = Meter()
    with own:
        told = predict_rung(found, Rung("zero_shot", sleeper))
    more = min(len(found.validation), 30) - forecast.FEW - 1
    assert told.cost.bytes == pytest.approx(own.peak_bytes + more * 1_000_000, abs=20_000_000)


def test_steps_tokens_and_parameters_are_those_of_the_training(words: Path) -> None:
    found = bench(words, steps=None, epochs=1.5, batch_size=16, patience=0)
    for key in ("lora", "last_layers"):
        one = rung(found, key)
        told = predict_rung(found, one)
        rows = prepare(found.plan("x", one), lambda _: None, found.opened).rows["train"]
        per_epoch = -(-len(rows) // 16)
        assert told.steps == round(1.5 * per_epoch)
        assert 0 < told.tokens <= 1.5 * sum(len(r.ids) for r in rows) + 16 * 64
        assert told.parameters > 0 and told.cost.seconds > 0 and told.cost.disk >= 4 * told.parameters
        assert told.cost.request_seconds > 0 and told.cost.request_tokens > 0


def test_requests_are_timed_on_one_engine_as_a_server_has_one(words: Path, monkeypatch: Any) -> None:
    found, engines = bench(words), []

    class Counted(task_context.Engine):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            engines.append(self)

    monkeypatch.setattr(task_context, "Engine", Counted)
    with found.served(found.opened, None, "base") as model:
        told = found.time_requests(found.opened, model)
    assert len(engines) == 1
    assert told.seconds > 0 and told.tokens > 0


def kept() -> set[Path]:
    return set((home() / "cache").glob("features/*.safetensors"))


def test_a_trial_leaves_nothing_behind(words: Path) -> None:
    found = bench(words)
    before = kept()  # the cache may be shared with other tests
    for key in ("linear_probe", "last_layers", "lora"):
        predict_rung(found, rung(found, key))
        predict_rung(found, rung(found, key))  # what a first trial kept would make it look faster
    assert not found.opened.bank.adapters
    assert kept() == before
    with Store.open() as store:
        assert not store.runs.list() and not store.models.list()


def test_the_prediction_stands_beside_the_outcome(words: Path) -> None:
    _, rungs = go(words, all=True, trials=1)
    for key in ("zero_shot", "linear_probe", "lora"):
        told, seen = rungs[key].predicted, rungs[key].cost
        for name in ("seconds", "wall", "bytes", "disk", "request_seconds", "total_seconds"):
            assert told[name] > 0 and seen[name] > 0, name
    assert rungs["lora"].predicted["steps"] == rungs["lora"].metrics["steps"] == 2
    assert rungs["lora"].predicted["parameters"] == rungs["lora"].metrics["parameters"]


def test_every_rung_is_planned_the_cheapest_first_and_misfits_last(words: Path) -> None:
    knobs = ClimbKnobs(only=["zero_shot", "lora", "rag", "linear_probe"], skip=["lora-int8"])
    found = plan(settings(words), knobs)
    assert {r.key for r in found[:-1]} == {"zero_shot", "lora", "linear_probe"}
    totals = [r.prediction.cost.total(knobs.requests) for r in found if r.prediction]
    assert totals == sorted(totals)
    assert found[-1].key == "rag" and "--documents" in (found[-1].reason or "")


def test_the_command(words: Path, ask: Ask) -> None:
    flags = ("--base", SCRATCH, "--dtype", "float32", "--device", "cpu", "--steps", 2,
             "--validation", 0.2, "--test", 0.2)  # fmt: skip
    answer = ask("plan", words, *flags, "--method", "zero_shot", "--requests", 7, "--json")
    (row,) = json.loads(answer.out)
    assert row["key"] == "zero_shot" and row["total_seconds"] == pytest.approx(
        row["seconds"] + 7 * row["request_seconds"]
    )
    tight = ask(
        "plan", words, *flags, "--only", "zero_shot", "--budget", "0.001s", "--bar", "accuracy=0.9"
    )
    assert "more than --budget 0.001s" in tight.out
    assert not list(words.parent.glob("*.html"))


def test_a_meter_sees_the_peak_of_its_own_stretch(rung_home: Path) -> None:
    with Meter() as large:
        block = bytearray(150_000_000)
        block[::4096] = b"x" * len(block[::4096])
        del block
    with Meter() as small:
        pass
    assert large.peak_bytes - small.peak_bytes > 100_000_000
    assert small.joules is None or small.joules >= 0
