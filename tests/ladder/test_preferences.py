"""A climb over preferences: which rungs there are, what they are judged by, what is refused."""

from __future__ import annotations

import json
import random

import pytest

from rung import methods, objectives
from rung.errors import ConfigError
from rung.ladder.report import validation_rows
from rung.ladder.rungs import all_rungs
from rung.ladder.scorecard import Scorecard
from rung.store import Store
from rung.types import Task
from tests.ladder.hill import Log, go, settings

PREFERENCE = Task("preference", "win_rate")


@pytest.fixture
def pairs(tmp_path, rung_home):
    draw, path = random.Random(0), tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"say {draw.choice(['sun', 'rain', 'tea'])} {i}", "chosen": f"yes gladly {i}",
         "rejected": f"no never {i}"}
        for i in range(70)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def given(pairs, **more):
    return settings(pairs, validation=0.3, test=0.3, reward=["length:300-400"], n=6, steered=[], **more)


def test_trained_methods_have_a_rung_for_each_objective_that_wants_pairs():
    keys = {r.key: r.settings for r in all_rungs(PREFERENCE)}
    trained = [n for n in methods.names() if methods.get(n).trained and not methods.get(n).own_base]
    assert {f"{name}-dpo" for name in trained} <= set(keys)
    assert not set(trained) & set(keys)
    assert {"zero_shot", "few_shot", "best_of_n", "steering"} <= set(keys)
    plain = {r.key for r in all_rungs(Task("classification", "accuracy", ("a", "b")))}
    assert {"lora", "lora-upper", "lora-int8", "full"} <= plain and not any(
        "dpo" in key for key in plain
    )
    assert objectives.get(keys["lora-dpo"]["objective"]).search["loss"] == ("sigmoid", "orpo")


def test_rungs_are_held_against_the_base_and_the_best_of_n_wins_by_its_own_judge(pairs):
    log = Log()
    only = ["zero_shot", "best_of_n", "lora", "steering", "linear_probe"]
    record, rungs = go(
        pairs, log, given(pairs), bar="win_rate=0.6", judge="length:300-400", only=only, all=True,
        skip=["lora-upper-dpo", "lora-int8-dpo", "linear_probe-minilm"], validation_rows=16,
    )  # fmt: skip
    said = {key: r.metrics.get("validation") for key, r in rungs.items()}
    base = said["base"]
    assert base["metric"] == "win_rate" and base["value"] == 0.5 == base["low"] == base["high"]
    for key in ("zero_shot", "best_of_n", "lora-dpo", "steering"):
        assert 0 <= said[key]["low"] <= said[key]["value"] <= said[key]["high"] <= 1
        assert {"win_rate_equal_length", "longer"} <= set(said[key]["more"])
    assert said["best_of_n"]["value"] > 0.5
    assert rungs["lora-dpo"].settings["objective"] == "dpo"
    assert "writes no answers that could win" in rungs["linear_probe"].reason
    assert record.verdict["winner"] == "best_of_n" and "win_rate" in record.verdict["says"]
    assert any("judged by it too" in told for told in log.warnings)
    # Each request draws six answers, and its row says what that takes.
    cost = {key: rungs[key].cost["request_tokens"] for key in ("base", "best_of_n")}
    assert cost["best_of_n"] > 1.3 * cost["base"]


def test_preference_accuracy_needs_no_judge(pairs):
    log = Log()
    record, rungs = go(
        pairs, log, given={**given(pairs)}, skip=["lora-upper-dpo", "lora-int8-dpo"],
        validation_rows=16, only=["zero_shot", "lora", "linear_probe"],
    )  # fmt: skip
    shown = rungs["lora-dpo"].metrics["validation"]
    assert shown["metric"] == "preference_accuracy" and "chosen_likelier" in shown["more"]
    judge = rungs["linear_probe"]  # a reward model writes nothing, and is right about pairs
    assert judge.status == "succeeded", judge.reason
    assert judge.metrics["validation"]["value"] > 0.5 and judge.cost["request_seconds"] > 0
    # The page of a later day shows the rows that were answered, read again from their source.
    with Store.open() as store:
        shown_again = validation_rows(Scorecard.of(store, record))
    assert log.bench is not None and [e.digest for e in shown_again] == [
        e.digest for e in log.bench.validation
    ]


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"bar": "win_rate=0.65"}, "say --judge model:NAME"),
        ({"bar": "win_rate=0.65", "judge": "lenght:3"}, "--judge: unknown reward"),
        ({"judge": "length:3"}, "--judge is for win_rate"),
        ({"bar": "win_rate=1.5", "judge": "length:3"}, "at most 1"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_the_base_is_loaded(pairs, knobs, said):
    log = Log()
    with pytest.raises(ConfigError, match=said):
        go(pairs, log, given(pairs), **knobs)
    assert not any(stage.startswith("loading") for stage in log.stages)


def test_a_task_with_replies_is_not_measured_by_wins(tmp_path, rung_home):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"say {i}", "completion": f"it is {i} of many"} for i in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError, match="not measured by win_rate"):
        go(path, Log(), settings(path), bar="win_rate=0.6", judge="length:3")
