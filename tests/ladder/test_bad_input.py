"""Data and bars that nothing can be judged by: one line that says what to do, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rung.store import Store
from tests.cli.conftest import SCRATCH, Ask, ask

__all__ = ["ask"]
VERBS = ("climb", "plan", "eval")
Write = Callable[[Sequence[Any]], Path]


def rows(count: int, *labels: str | None) -> list[dict[str, Any]]:
    """Rows whose labels take turns."""
    return [{"prompt": f"Row {i}?", "completion": labels[i % len(labels)]} for i in range(count)]


@pytest.fixture
def write(tmp_path: Path, rung_home: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes rows to `data.jsonl` in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def written(found: Sequence[Any]) -> Path:
        path = tmp_path / "data.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in found))
        return path

    return written


def said_by(ask: Ask, verb: str, data: Path, *flags: str) -> str:
    """What a verb answers to data that it must refuse; checks that it leaves nothing behind."""
    first = ["eval", SCRATCH, "--data", data] if verb == "eval" else [verb, data, "--base", SCRATCH]
    line = ask(*first, "--dtype", "float32", "--device", "cpu", *flags).refused()
    assert [p.name for p in data.parent.iterdir() if p.is_file()] == [data.name]
    with Store.open() as store:
        assert not store.climbs.list() and not store.runs.list() and not store.models.list()
        assert not store.evaluations.list()
    return line


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("found", "said"),
    [
        (rows(60, "yes"), ["every row has the same answer 'yes'", "add rows with other answers"]),
        (
            rows(60, "Yes", "yes", "no"),
            ["'Yes' (20 rows) and 'yes' (20 rows)", "differ only in case", "spell them alike"],
        ),
        (
            rows(60, "yes", "no", " "),
            ["20 rows have no answer or label (", "data.jsonl:3", "fill them in", "--where"],
        ),
        (rows(60, "yes", "no", None), ["data.jsonl:3", "and 15 more: no completion"]),
        ([], ["data.jsonl holds no rows"]),
        ([7] * 60, ["data.jsonl:1"]),
        ([{"text": f"t {i}", "label": ("a", None)[i % 2]} for i in range(60)], ["data.jsonl:2"]),
        (rows(60, "a", "b") + [{"question": "?"}], ["data.jsonl:61"]),
    ],
    ids=["one class", "case", "blank", "missing", "empty", "no rows", "no label", "other keys"],
)
def test_data(ask: Ask, write: Write, verb: str, found: list[Any], said: list[str]) -> None:
    line = said_by(ask, verb, write(found))
    for words in said:
        assert words in line


@pytest.mark.parametrize("verb", ["climb", "plan"])
def test_five_rows_are_too_few_to_choose_and_to_judge_by(ask: Ask, write: Write, verb: str) -> None:
    line = said_by(ask, verb, write(rows(5, "yes", "no")))
    assert line.startswith("5 rows (") and "are too few" in line and "give more rows" in line


@pytest.mark.parametrize("verb", ["climb", "plan"])
def test_test_rows_that_are_trained_on_measure_nothing(ask: Ask, write: Write, verb: str) -> None:
    path = write(rows(60, "yes", "no"))
    test = path.parent / "held" / "test.jsonl"
    test.parent.mkdir()
    test.write_text("\n".join(path.read_text().splitlines()[:12]))
    line = said_by(ask, verb, path, "--test-data", str(test), "--validation", "0.1")
    assert line.startswith("12 of 12 test rows are also in training (test.jsonl:1 = data.jsonl:1")
    assert "--allow-leakage" in line


def test_a_measure_on_rows_that_are_trained_on_says_so(ask: Ask, write: Write) -> None:
    path = write(rows(60, "yes", "no"))
    test = path.parent / "test.jsonl"
    test.write_text("\n".join(path.read_text().splitlines()[:12]))
    asked = ("eval", SCRATCH, "--data", path, "--test-data", test)
    answer = ask(*asked)
    assert answer.code == 0 and "12 of 12 test rows are also in training" in answer.err
    assert "also in training" not in ask(*asked, "--part", "validation").err


def test_five_rows_are_measured_with_a_warning(ask: Ask, write: Write) -> None:
    answer = ask("eval", SCRATCH, "--data", write(rows(5, "yes", "no")), "--part", "all", "--json")
    assert answer.code == 0 and "5 items show little: see the intervals" in answer.err
    (model,) = json.loads(answer.out)["models"]
    assert model["n"] == 5 and model["high"] - model["low"] > 0.3


@pytest.mark.parametrize("verb", ["climb", "plan"])
@pytest.mark.parametrize(
    ("bar", "said"),
    [
        ("acuracy=0.8", "there is no acuracy, did you mean 'accuracy'?"),
        ("rouge_l=0.3", "a task of classification is not measured by rouge_l"),
        ("perplexity<=10", "a task of classification is not measured by perplexity"),
        ("accuracy=1.7", "cannot be measured: accuracy is at least 0 and at most 1"),
        ("accuracy=84", "did you mean 0.84?"),
        ("accuracy<=0.5", "more is better; write accuracy=0.5"),
        ("accuracy=fast", "give a metric and a figure, such as accuracy=0.84"),
        ("accuracy=nan", "the figure must be finite"),
        ("0.84", "give a metric and a figure"),
        ("", "--bar is '': give a metric and a figure"),
    ],
)
def test_bars(ask: Ask, write: Write, verb: str, bar: str, said: str) -> None:
    assert said in said_by(ask, verb, write(rows(60, "yes", "no")), "--bar", bar)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("metric", ["acuracy", "0.5", ""])
def test_metrics_that_there_are_not(ask: Ask, write: Write, verb: str, metric: str) -> None:
    line = said_by(ask, verb, write(rows(60, "yes", "no")), "--metric", metric)
    assert "accuracy" in line


@pytest.mark.parametrize("verb", ["climb", "plan"])
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--only lroa", "--only names 'lroa', did you mean 'lora'?"),
        ("--skip zero", "--skip names 'zero'"),
        ("--only lora --skip lora", "--only and --skip leave no method to try"),
        ("--task clasification", "did you mean 'classification'?"),
        ("--metric macro_f1 --bar accuracy=0.8", "give one of them"),
        ("--budget 0", "give a time such as 90s, 20m or 1h"),
        ("--budget soon", "--budget is 'soon'"),
        ("--requests -1", "--requests is -1"),
        ("--lr fast", "--lr is 'fast', must be a number"),
    ],
)
def test_flags(ask: Ask, write: Write, verb: str, flags: str, said: str) -> None:
    data = write(rows(100, "yes", "no"))
    shares = ("--validation", "0.2", "--test", "0.2")
    assert said in said_by(ask, verb, data, *shares, *flags.split())


def test_replies_that_are_no_labels_are_not_taken_for_them(ask: Ask, write: Write) -> None:
    data = write(
        [{"prompt": f"Tell {i}.", "completion": f"A tale of {i} in {i} words."} for i in range(60)]
    )
    line = said_by(ask, "climb", data, "--task", "classification")
    assert "45 different replies in 45 rows are no labels" in line


def test_no_data_is_named(ask: Ask, rung_home: Path) -> None:
    assert ask("climb").refused() == "name the data: rung climb FILE, hf:NAME or wheel:PACKAGE/MEMBER"
    assert ask("plan").refused() == "name the data: rung plan FILE, hf:NAME or wheel:PACKAGE/MEMBER"
    assert "no file 'gone.jsonl'" in ask("climb", "gone.jsonl").refused()
