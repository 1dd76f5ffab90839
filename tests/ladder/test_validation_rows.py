"""How many rows a climb holds out to tell rungs apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rung.ladder.knobs import ClimbKnobs
from rung.ladder.report import validation_rows
from rung.ladder.scorecard import Scorecard
from rung.ladder.task_context import TaskContext
from rung.store import Store
from tests.ladder.hill import SCRATCH, go


def write(path: Path, count: int) -> Path:
    lines = [{"text": f"row {i} of {count}", "label": ("a", "b")[i % 2]} for i in range(count)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def opened(path: Path, **given: Any) -> TaskContext:
    every = {"data": str(path), "base": SCRATCH, "dtype": "float32", "device": "cpu", **given}
    return TaskContext.open(every, ClimbKnobs(), lambda _: None)


@pytest.mark.parametrize(("count", "share"), [(200, 0.2), (500, 0.2), (640, 0.16), (3000, 0.1)])
def test_small_data_has_a_fifth_or_a_hundred_rows(
    tmp_path: Path, rung_home: Path, count: int, share: float
) -> None:
    path = write(tmp_path / "rows.jsonl", count)
    found, plain = opened(path), opened(path, validation=0.1)
    assert len(found.validation) == pytest.approx(share * count, rel=0.25)
    assert found.given.get("validation", 0.1) == share
    # The test rows are those of any other command on this data.
    assert found.test == plain.test
    assert {e.origin for e in plain.validation} <= {e.origin for e in found.validation}
    assert len(plain.validation) == pytest.approx(0.1 * count, rel=0.3)


def test_what_the_user_says_is_taken(tmp_path: Path, rung_home: Path) -> None:
    path = write(tmp_path / "rows.jsonl", 200)
    assert opened(path, validation=0.05).given["validation"] == 0.05
    assert opened(path, **{"data.validation": 0.3}).given["data.validation"] == 0.3
    assert len(opened(path, test=0.85).validation) < 30  # room for training is left
    own = write(tmp_path / "own.jsonl", 31)
    found = opened(path, validation_data=str(own))
    assert len(found.validation) == 31 and "validation" not in found.given


def test_its_models_and_its_page_know_the_same_rows(tmp_path: Path, rung_home: Path) -> None:
    path = write(tmp_path / "rows.jsonl", 200)
    given = {"data": str(path), "base": SCRATCH, "dtype": "float32", "device": "cpu", "steps": 2}
    record, rungs = go(path, given=given, only=["tfidf"])
    with Store.open() as store:
        assert store.runs.get(rungs["tfidf"].run or "").config["validation"] == 0.2
        shown = validation_rows(Scorecard.of(store, record))
    assert len(shown) == rungs["tfidf"].metrics["validation"]["n"] > 30
