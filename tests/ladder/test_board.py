"""The leaderboard over climbs and evaluations, and what the command shows of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rung.errors import DataError
from rung.ladder.leaderboard import entries, tasks
from rung.store import Store
from rung.store.climbs import RungRecord
from rung.store.records import BaseRecord, DatasetRecord
from tests.cli.conftest import Ask, ask

__all__ = ["ask"]
BASE = BaseRecord("b" * 64, "little", "little", "little", "mit", 1000)
MOOD = DatasetRecord("d" * 64, "mood", "mood.jsonl")
PROSE = DatasetRecord("e" * 64, "prose", "prose.txt")


def figure(value: float, n: int, metric: str = "accuracy") -> dict[str, Any]:
    return {"metric": metric, "value": value, "low": value - 0.1, "high": value + 0.1, "n": n}


@pytest.fixture
def store(rung_home: Path) -> Store:
    """Two climbs on one task, the second better; one on texts; an evaluation outside of climbs."""
    store = Store.open()
    for lora in (0.7, 0.8):
        climb = store.climbs.create("mood", task={"metric": "accuracy"}, base=BASE, data=MOOD)
        for key, validation, test, total in (
            ("base", 0.5, 0.45, 10.0), ("lora", lora, lora - 0.1, 90.0), ("probe", 0.7, None, 5.0),
        ):  # fmt: skip
            metrics = {"validation": figure(validation, 40)}
            if test is not None:
                metrics["test"] = figure(test, 20)
            store.climbs.put(
                RungRecord(
                    climb.id, key, "" if key == "base" else key, status="succeeded", metrics=metrics,
                    model=None if key == "base" else f"mood-{key}", cost={"total_seconds": total},
                )
            )  # fmt: skip
        failed = RungRecord(climb.id, "full", "full", status="failed", reason="out of memory")
        store.climbs.put(failed)
        store.climbs.update(climb.id, status="succeeded", verdict={"winner": "lora"})
    texts = store.climbs.create("prose", task={"metric": "perplexity"}, base=BASE, data=PROSE)
    for key, value in (("base", 30.0), ("lora", 20.0)):
        metrics = {"validation": figure(value, 9, "perplexity")}
        rung = RungRecord(texts.id, key, key, status="succeeded", metrics=metrics, model=f"prose-{key}")
        store.climbs.put(rung)
    store.evaluations.add(
        metric="accuracy", value=0.55, low=0.5, high=0.6, n=99, base=BASE, dataset=MOOD
    )
    store.evaluations.add(
        metric="test_loss", value=1.2, low=1.1, high=1.3, n=99, base=BASE, dataset=MOOD
    )
    return store


def test_the_best_comes_first_within_each_part(store: Store) -> None:
    found = [(e.part, e.model, round(e.value, 2), e.n) for e in entries(store, "mood")]
    assert found == [
        ("test", "mood-lora", 0.7, 20), ("test", "little", 0.45, 20),
        ("data", "little", 0.55, 99),
        ("validation", "mood-lora", 0.8, 40), ("validation", "mood-probe", 0.7, 40),
        ("validation", "little", 0.5, 40),
    ]  # fmt: skip


def test_a_later_climb_replaces_what_an_earlier_one_said_of_a_model(store: Store) -> None:
    newest = max(store.climbs.list(), key=lambda c: (c.name == "mood", c.started, c.id))
    (entry,) = [e for e in entries(store, "mood") if e.model == "mood-lora" and e.part == "test"]
    assert entry.climb is not None and entry.value == pytest.approx(0.7)
    assert dataclasses.asdict(entry)["total_seconds"] == 90.0
    assert entry.climb == newest.id


def test_less_is_better_where_the_metric_says_so(store: Store) -> None:
    assert [e.model for e in entries(store, "prose")] == ["prose-lora", "prose-base"]


def test_a_baseline_whose_model_is_not_kept_yet_is_not_the_base(store: Store) -> None:
    again = store.climbs.create("early", task={"metric": "accuracy"}, base=BASE, data=MOOD)
    for key, value in (("tfidf", 0.91), ("base", 0.5)):
        found = {"validation": figure(value, 40)}
        store.climbs.put(RungRecord(again.id, key, key, status="succeeded", metrics=found))
    values = {e.value: e.model for e in entries(store, "early")}
    assert values[0.91] == "early-tfidf" and values[0.5] not in ("early-tfidf", "")


def test_a_task_is_named_by_its_climb_its_data_or_a_digest(store: Store) -> None:
    assert tasks(entries(store)) == ["mood", "prose"]
    assert entries(store, "d" * 8) == entries(store, "d" * 64) == entries(store, "mood")
    with pytest.raises(DataError, match="nothing was measured on 'moood', did you mean 'mood'"):
        entries(store, "moood")


def test_climbs_and_evaluations_on_one_data_set_are_one_task(store: Store) -> None:
    again = store.climbs.create("mood-2", task={"metric": "accuracy"}, base=BASE, data=MOOD)
    found = {"validation": figure(0.9, 40)}
    store.climbs.put(
        RungRecord(again.id, "ia3", "ia3", status="succeeded", metrics=found, model="mood-2-ia3")
    )
    assert tasks(entries(store)) == ["mood", "prose"]
    assert entries(store, "mood-2") == entries(store, "mood")
    assert "mood-2-ia3" in {e.model for e in entries(store, "mood")}


def test_the_command(store: Store, ask: Ask) -> None:
    answer = ask("board", "mood")
    head, *lines = [line.split("\t") for line in answer.out.splitlines()]
    assert head[:2] == ["model", "task"]
    assert answer.code == 0 and [line[0] for line in lines][:2] == ["mood-lora", "little"]
    assert lines[0][1:7] == ["mood", "lora", "accuracy", "0.700 [0.60, 0.80]", "20", "test"]
    plain = json.loads(ask("board", "mood", "--json").out)
    assert [e["model"] for e in plain] == [line[0] for line in lines]
    assert "did you mean 'mood'" in ask("board", "moood").refused()


def test_climbs_are_listed_to_resume_one(store: Store, ask: Ask) -> None:
    found = json.loads(ask("board", "--climbs", "--json").out)
    assert sorted(c["name"] for c in found) == ["mood", "mood", "prose"]
    assert "lora" in ask("board", "mood", "--climbs").out
    (running,) = [c for c in found if c["name"] == "prose"]
    assert running["status"] == "running"


def test_nothing_was_measured_yet(rung_home: Path, ask: Ask) -> None:
    answer = ask("board")
    assert answer.code == 0 and "begin with rung climb" in answer.err
    assert len(answer.out.splitlines()) <= 1  # the head of an empty table
    assert json.loads(ask("board", "--json").out) == []
