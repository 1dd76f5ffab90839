"""What is predicted, from counts and the machine's speed, and that nothing is run for it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from rung import methods
from rung.ladder import machine, task_context
from rung.ladder.arms import Arms
from rung.ladder.forecast import Forecaster
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.machine import Machine
from rung.ladder.meter import Meter
from rung.ladder.plan import plan
from rung.ladder.rungs import Rung, all_rungs
from rung.ladder.task_context import TaskContext
from rung.methods.base import Schedule
from rung.methods.workload import Shape, Workload
from rung.store import Store
from tests.cli.conftest import Ask, ask
from tests.ladder.hill import SCRATCH, go, settings, write_words

__all__ = ["ask"]
SHAPE = Shape(
    rows=1000, held=100, prompt=40.0, shared=20.0, reply=3.0, choices=4.0, letters=120.0, labels=2,
    layers=30, width=576, weights=106e6, head=0.25,
)  # fmt: skip


@pytest.fixture
def words(tmp_path: Path, rung_home: Path) -> Path:
    return write_words(tmp_path / "words.jsonl")


def bench(words: Path, **given: Any) -> TaskContext:
    return TaskContext.open(settings(words, **given), ClimbKnobs(), lambda _: None)


def rung(found: TaskContext, key: str) -> Rung:
    return next(r for r in all_rungs(found.task) if r.key == key)


def forecast_of(found: TaskContext, key: str, share: float = 1.0):
    one = rung(found, key)
    return found.forecaster.of_rung(one, found.plan("x", one), share)


def making(method: str, shape: Shape = SHAPE, steps: int = 100, **knobs: Any) -> Workload:
    found = methods.get(method)
    return found.making(found.Config(**knobs), shape, Schedule(steps, 8, 3))


# --- counts -----------------------------------------------------------------------------------------


def test_a_training_reads_its_steps_forward_and_backward_and_its_validations() -> None:
    work = making("lora")
    per_row = SHAPE.prompt + SHAPE.reply * (1 + SHAPE.head)
    tokens = 100 * (8 * per_row + SHAPE.shared) * 2.2 + 3 * (100 * per_row + SHAPE.shared)
    assert work.read == pytest.approx(tokens)
    assert making("lora", steps=200).read < 2 * work.read
    assert making("full").read > work.read > making("last_layers").read


def test_a_training_of_the_upper_half_reads_half_of_that_and_each_row_once_below() -> None:
    whole, upper = making("lora"), making("lora", adapted="upper")
    once = (800 + 100) * (SHAPE.prompt + SHAPE.reply)  # rows of 100 steps, and those held out
    assert upper.read == pytest.approx(whole.read / 2 + once / 2)
    assert making("last_layers", layers=15).read > upper.read  # its own weights have gradients


@pytest.mark.parametrize("method", ["linear_probe", "tfidf"])
def test_more_rows_take_more_where_a_method_learns_from_them(method: str) -> None:
    less, more = making(method, replace(SHAPE, rows=250)), making(method)
    assert more.read + more.fitted > less.read + less.fitted
    assert making(method, replace(SHAPE, labels=77)).fitted > more.fitted


def test_a_prompt_is_chosen_on_rows_of_validation_alone() -> None:
    few, many = making("zero_shot", replace(SHAPE, held=25)), making("zero_shot")
    # Three ways to ask, and all of them answer the first 32 rows; then some are dropped.
    each = few.read / (3 * 25)
    assert many.read == pytest.approx((3 * 32 + 2.5 * 68) * each)
    assert making("zero_shot", replace(SHAPE, rows=9)).read == many.read
    own = making("zero_shot", replace(SHAPE, system=True))  # is kept, sharpened or replaced
    assert own.read == pytest.approx((5 * 32 + 4 * 68) * each)
    given = making("zero_shot", system_prompts=["a", "b", "c"])
    assert given.read == pytest.approx((4 * 32 + 3.25 * 68) * each)


def test_reasons_are_written_and_labels_are_scored() -> None:
    assert making("zero_shot").written == 0
    assert making("chain_of_thought").written > 0
    generated = making("zero_shot", replace(SHAPE, choices=0.0))
    assert generated.written > 0


def test_an_encoder_reads_in_place_of_the_base() -> None:
    work = making("linear_probe", encoder="minilm")
    assert work.encoded > 0 and work.read == 0


def test_work_adds_up() -> None:
    assert Workload(read=1, passes=2) + Workload(read=3) * 2 == Workload(read=7, passes=2)


# --- the machine ------------------------------------------------------------------------------------


def test_seconds_follow_from_counts_and_a_busy_machine_takes_longer() -> None:
    idle = Machine(1e11, 0.002, 0.03)
    assert idle.seconds(Workload(read=100, passes=2)) == pytest.approx(0.26)
    busy = replace(idle, busy=2.0)
    assert busy.seconds(Workload(read=100)) == pytest.approx(2 * idle.seconds(Workload(read=100)))
    assert idle.told is None and "busy" in str(busy.told)
    assert "busy" in str(replace(idle, others=0.6).told)
    coded = replace(idle, product=8e11, float32=1e11)  # an encoder gains nothing from shorter numbers
    assert coded.seconds(Workload(encoded=9, fitted=9)) == idle.seconds(Workload(encoded=9, fitted=9))
    assert idle.alone(10, 3) == pytest.approx(10 * 0.002 + 4 * 0.03)


def test_what_was_taken_corrects_what_is_counted_and_is_kept(words: Path) -> None:
    found = bench(words)
    found.opened.bank.digest = uuid4().hex
    counted = forecast_of(found, "lora")
    one = rung(found, "lora")
    found.forecaster.learn("lora", "lora", counted, 3 * counted.cost.seconds, counted.answer_seconds)
    assert forecast_of(found, "lora").cost.seconds == pytest.approx(3 * counted.cost.seconds)
    again = Machine.of(found.opened.bank)  # as another climb on this machine and base finds it
    assert again.corrections["making lora"] == pytest.approx(3.0)
    fresh = Forecaster.of(found, again).of_rung(one, found.plan("x", one))
    assert fresh.cost.seconds > 2 * counted.cost.seconds / 1.5


def test_a_request_is_expected_to_take_what_those_before_it_took(words: Path) -> None:
    """Of the rung itself, else of the base where the rung asks it; a probe over an encoder does not."""
    found = bench(words)
    found.opened.bank.digest = uuid4().hex
    before = {
        key: forecast_of(found, key).cost.request_seconds for key in ("lora", "zero_shot", "tfidf")
    }
    base = found.forecaster.base(10)
    found.forecaster.learn("base", "base", base, 0.0, 0.0, 3 * base.cost.request_seconds)
    after = {key: forecast_of(found, key).cost.request_seconds for key in before}
    assert after["lora"] == pytest.approx(3 * before["lora"])
    assert after["zero_shot"] == pytest.approx(3 * before["zero_shot"])
    assert after["tfidf"] == before["tfidf"]
    found.forecaster.learn("lora", "lora", forecast_of(found, "lora"), 0.0, 0.0, before["lora"])
    assert forecast_of(found, "lora").cost.request_seconds == pytest.approx(before["lora"])
    assert forecast_of(found, "zero_shot").cost.request_seconds == after["zero_shot"]


def test_the_speed_is_measured_once_for_a_machine_and_base(words: Path, monkeypatch: Any) -> None:
    found = bench(words)
    speed = {"now": 1e11}
    monkeypatch.setattr(machine, "product_speed", lambda *_: speed["now"])
    monkeypatch.setattr(machine, "used_by_others", lambda: 0.0)
    monkeypatch.setattr(machine, "settle_threads", lambda device: 1)
    passes: list[float] = []
    measure = machine._passes

    def counted(*given: Any) -> tuple[float, float]:
        passes.append(1.0)
        return measure(*given)

    monkeypatch.setattr(machine, "_passes", counted)
    found.opened.bank.digest = uuid4().hex
    first, second = Machine.of(found.opened.bank), Machine.of(found.opened.bank)
    assert len(passes) == 1 and (second.token, second.call) == (first.token, first.call)
    speed["now"] = 0.5e11
    assert Machine.of(found.opened.bank).busy == pytest.approx(2.0)
    speed["now"] = 2e11  # what was kept had been measured beside others
    assert Machine.of(found.opened.bank).busy == 1.0 and len(passes) == 2


def test_threads_that_wait_for_each_other_give_way_to_one(monkeypatch: Any) -> None:
    import torch

    before = torch.get_num_threads()
    monkeypatch.setattr(machine, "_first_threads", lambda: 2)
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 2)
    for alone, together, others, expected in (
        (1e9, 1.8e9, 0.0, 2), (1e9, 0.6e9, 0.0, 1), (1.1e9, 1e9, 0.1, 2), (1e9, 1.8e9, 0.5, 1),
        (1e9, 1.8e9, 1.0, 1),
    ):  # fmt: skip
        speeds = {1: alone, 2: together}
        monkeypatch.setattr(machine, "used_by_others", lambda o=others: o)
        monkeypatch.setattr(machine, "product_speed", lambda *_, s=speeds: s[torch.get_num_threads()])
        assert machine.settle_threads() == expected == torch.get_num_threads()
    # What a fit has left behind slows two threads for a moment, which says nothing of the next minutes.
    monkeypatch.setattr(machine, "used_by_others", lambda: 0.0)
    slept: list[float] = []
    monkeypatch.setattr(machine.time, "sleep", slept.append)
    speeds = {1: 1e9, 2: 1.8e9}

    def speed(*_: Any) -> float:
        return (
            1e8 if torch.get_num_threads() == 2 and not any(slept) else speeds[torch.get_num_threads()]
        )

    monkeypatch.setattr(machine, "product_speed", speed)
    assert machine.settle_threads() == 2 and sum(slept) < 0.5
    torch.set_num_threads(before)


def test_a_base_is_looked_into_with_the_threads_that_are_fastest(words: Path, monkeypatch: Any) -> None:
    done: list[str] = []
    monkeypatch.setattr(task_context, "settle_threads", lambda device: done.append(device))
    monkeypatch.setattr(task_context, "open_base", lambda *_, **__: done.append("opened"))
    _ = bench(words).opened
    assert done == ["cpu", "opened"]


def test_what_others_use_is_not_asked_twice_in_a_moment(monkeypatch: Any) -> None:
    for name in ("_SEEN", "_OTHERS"):
        monkeypatch.setattr(machine, name, None)
    slept: list[float] = []
    monkeypatch.setattr(machine.time, "sleep", slept.append)
    first = machine.used_by_others()
    seen = machine._SEEN
    assert machine.used_by_others() == first and machine._SEEN is seen
    assert slept == [machine.LOOK_SECONDS]
    monkeypatch.setattr(machine, "LOOK_SECONDS", 0.0)  # later it is looked at again, without a wait
    machine.used_by_others()
    assert machine._SEEN is not seen and len(slept) == 1


def test_what_others_use_leaves_out_this_process() -> None:
    def busy_for(seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            sum(range(1000))

    machine.used_by_others()
    before = psutil.Process().cpu_times()
    busy_for(1.0)
    seen = machine._SEEN
    others = machine.used_by_others()
    after = psutil.Process().cpu_times()
    own = after.user + after.system - before.user - before.system
    assert seen is not None and machine._SEEN is not None and machine._SEEN.at > seen.at
    everybody = (machine._SEEN.used - seen.used) / (machine._SEEN.all - seen.all)
    assert others == pytest.approx(max(0.0, everybody - own / (machine._SEEN.all - seen.all)), abs=0.1)
    assert 0.0 <= others <= 1.0


def test_short_rows_get_larger_steps_where_reading_the_weights_takes_the_time(
    words: Path, monkeypatch: Any
) -> None:
    found = bench(words, steps=None, epochs=40.0)
    lora, own = rung(found, "lora"), found.forecaster
    for call, expected in ((0.0, 8), (0.05, 8), (0.2, 32), (9.0, 32)):
        own.machine.token, own.machine.call, own.shape = 0.002, call, replace(own.shape, prompt=10)
        assert found.plan("x", lora).train.batch_size == expected
    told = forecast_of(found, "lora")
    assert told.steps == 40 * -(-own.shape.rows // 32)
    assert found.plan("x", lora, batch_size=4).train.batch_size == 4
    said = bench(words, steps=None, epochs=40.0, batch_size=2)
    said.forecaster.machine.call = 9.0
    assert said.plan("x", rung(said, "lora")).train.batch_size == 2


# --- rungs ------------------------------------------------------------------------------------------


def test_nothing_is_trained_or_kept_to_predict(words: Path) -> None:
    found = bench(words)
    arms = Arms(found, {r.key: r for r in all_rungs(found.task)})
    for key in arms.rungs:
        if key not in arms.misfits:
            assert arms.prediction(key).cost.total(10) > 0, key
    assert not found.opened.bank.adapters
    with Store.open() as store:
        assert not store.runs.list() and not store.models.list()
    assert {"rag", "remote"} <= set(arms.misfits)


def test_a_share_takes_less_and_measures_on_fewer_rows(words: Path) -> None:
    found = bench(words, steps=None)
    whole, part = forecast_of(found, "lora"), forecast_of(found, "lora", 0.25)
    assert part.steps == pytest.approx(whole.steps / 4, abs=1)
    assert part.cost.seconds < whole.cost.seconds


def test_steps_tokens_and_parameters_are_those_of_the_training(words: Path) -> None:
    found = bench(words, steps=None, epochs=1.5, batch_size=16, patience=0)
    for key in ("lora", "last_layers", "prompt_tuning", "prefix_tuning", "full", "ia3"):
        told, one = forecast_of(found, key), rung(found, key)
        per_epoch = -(-len(found.opened.splits.train) // 16)
        assert told.steps == round(1.5 * per_epoch)
        assert told.tokens > 0 and told.cost.disk >= 4 * told.parameters
        made = one.method.build(found.opened.bank, found.plan("x", one).config, start(found))
        assert told.parameters == made.size, key


def start(found: TaskContext) -> Any:
    import torch

    from rung.methods.base import Start

    return Start(torch.Generator().manual_seed(0), [(5, 6, 7)], lambda text: [5, 6, 7])


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


def test_the_baseline_is_timed_without_an_engine(words: Path, monkeypatch: Any) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("an engine lays the base's weights out, which the baseline does not need")

    monkeypatch.setattr(task_context, "Engine", refused)
    record, rungs = go(words, only=["tfidf"], bar="accuracy=0.5")
    assert record.verdict["winner"] == "tfidf" and rungs["tfidf"].cost["request_seconds"] > 0
    assert rungs["tfidf"].cost["request_tokens"] == 0


def test_the_prediction_stands_beside_the_outcome(words: Path) -> None:
    _, rungs = go(words, all=True)
    for key in ("zero_shot", "linear_probe", "lora"):
        told, seen = rungs[key].predicted, rungs[key].cost
        for name in ("seconds", "wall", "bytes", "disk", "request_seconds", "total_seconds"):
            assert told[name] > 0 and seen[name] > 0, name
    assert rungs["lora"].predicted["steps"] == rungs["lora"].metrics["steps"] == 2
    assert rungs["lora"].predicted["parameters"] == rungs["lora"].metrics["parameters"]


def test_every_rung_is_planned_the_cheapest_first_and_misfits_last(words: Path) -> None:
    knobs = ClimbKnobs(
        only=["zero_shot", "lora", "rag", "linear_probe"], skip=["lora-upper", "lora-int8"]
    )
    found = plan(settings(words), knobs).rows
    assert {"zero_shot", "lora", "linear_probe"} <= {r.key for r in found[:-1]}
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


def test_nothing_is_compiled_to_plan(words: Path, monkeypatch: Any) -> None:
    begun: list[str] = []
    monkeypatch.setattr("rung.forward.compiled.compiler.begin", lambda: begun.append("compiling"))
    plan(settings(words), ClimbKnobs())
    assert not begun
    _ = bench(words).opened
    assert begun == ["compiling"]
