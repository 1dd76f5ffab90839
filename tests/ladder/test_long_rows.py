"""Rows that no prompt of the base holds: they count as wrong, and end no rung."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest

from rung import Store
from rung.evals.answers import Answers
from rung.evals.measure import measure
from rung.ladder.answers import kept_items, one_answer
from rung.ladder.report import render
from rung.ladder.scorecard import Scorecard, cells, made
from rung.types import Example, Task
from tests.ladder.hill import go, settings, write_words


def test_a_row_beyond_the_context_counts_as_wrong(tmp_path, rung_home):
    rows = write_words(tmp_path / "words.jsonl").read_text().splitlines()
    long = json.dumps({"text": "sun warm " * 400, "label": "kind"})
    parts = {
        "data": rows[48:],
        "validation_data": [*rows[:23], long],
        "test_data": [*rows[24:47], long],
    }
    given = settings(tmp_path / "data")
    for name, lines in parts.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(lines))
        given[name] = str(path)
    for share in ("validation", "test"):
        del given[share]
    record, rungs = go(
        tmp_path / "data.jsonl", given=given, only=["zero_shot", "few_shot", "lora"], all=True
    )
    for key in ("base", "zero_shot", "few_shot", "lora"):
        seen = rungs[key].metrics.get("validation")
        assert seen, (key, rungs[key].reason)
        assert seen["unanswered"] == 1 and seen["n"] == 24
        assert sum(map(sum, seen["confusion"])) == 24
        assert sum(line[-1] for line in seen["confusion"]) == 1  # none of the labels
        assert rungs[key].cost["request_seconds"] > 0
    tested = [r.metrics["test"] for r in rungs.values() if "test" in r.metrics]
    assert tested and all(t["unanswered"] == 1 for t in tested)
    with Store.open() as store:
        card = Scorecard.of(store, record)
        row = card.row("lora")
        assert row is not None and "1 row too long, counted as wrong" in made(row)
        for winner in ("lora", "zero_shot"):
            assert "1 row too long, counted as wrong" in cells(row, winner)[-1]
        assert "counted as wrong" in render(store, card)


def test_where_no_row_fits_a_rung_says_so(tmp_path, rung_home):
    path = write_words(tmp_path / "words.jsonl")
    base = "scratch:layers=1,width=16,heads=2,vocab=300,context=16"
    _, rungs = go(path, given=settings(path, base=base), only=["zero_shot"], all=True)
    assert "not fit into the context" in (rungs["base"].reason or "")


@pytest.mark.parametrize("long", [0, 1, 3])
def test_answers_stay_beside_their_rows(rung_home, long):
    from rung import bases
    from rung.engine import ServedModel
    from rung.evals.predict import predict
    from rung.evals.predict_fitting import predict_fitting
    from rung.forward.opening import open_bank

    base = "scratch:layers=1,width=16,heads=2,vocab=300,context=64"
    opened = open_bank(bases.resolve(base), dtype="float32", device="cpu")
    model = ServedModel.of("base", -1, opened.template)
    task = Task("classification", "accuracy", ("a", "bb", "c" * 30))

    def row(text: str) -> Example:
        asked = {"role": "user", "content": text}
        return Example(messages=(asked, {"role": "assistant", "content": "a"}))

    short = [row(text) for text in ("one", "two", "three")]
    rows = [short[0], *[row("x" * 90)] * long, *short[1:]]
    found = predict_fitting(opened.bank, model, rows, task)
    plain = predict(opened.bank, model, short, task)
    kept = [0, *range(1 + long, 3 + long)]
    assert [found.texts[i] for i in kept] == plain.texts and found.unanswered == long
    assert found.scores is not None and plain.scores is not None
    for i, scores in zip(kept, plain.scores, strict=True):
        assert found.scores[i] == pytest.approx(scores, abs=1e-5)
    assert all(found.texts[i] == "" for i in range(1, 1 + long))


def test_a_missing_answer_is_wrong_by_every_metric_of_labels():
    task = Task("classification", "accuracy", ("no", "certainly"))
    rows = [
        Example(messages=({"role": "user", "content": "?"}, {"role": "assistant", "content": label}))
        for label in ("no", "certainly")
    ]
    answers = Answers(["no", ""], [{"no": -0.1, "certainly": -3.0}, {}], unanswered=1)
    measured = measure(answers, rows, task)
    assert measured.value == 0.5 and measured.more["accuracy_norm"] == 0.5 and measured.unanswered == 1
    norm = measure(answers, rows, replace(task, metric="accuracy_norm"))
    assert norm.value == 0.5
    assert kept_items(answers, measured)["sure"][1] == 0.0


def test_rows_without_an_answer_do_not_hide_that_all_others_have_one():
    task = Task("classification", "accuracy", ("no", "yes"))
    assert one_answer(Answers(["no"] * 29 + [""], unanswered=1), task) == "no"
    assert one_answer(Answers(["no"] * 28 + ["yes", ""], unanswered=1), task) is None
    assert one_answer(Answers(["no"] * 29 + [""]), task) is None  # an empty answer that was given


def test_a_row_is_sent_without_what_follows_from_it():
    row = Example(messages=({"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}))
    before = pickle.dumps(row)
    assert row.words and row.content_key and row.question_key and row.digest
    assert pickle.dumps(row) == before
    again = pickle.loads(before)
    assert again == row and again.question_key == row.question_key
