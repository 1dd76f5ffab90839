"""The task is found from the rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rung.errors import ConfigError
from rung.evals import tasks
from rung.types import Example


def rows(pairs, system=None):
    first = ({"role": "system", "content": system},) if system else ()
    return [
        Example(
            (*first, {"role": "user", "content": q}, {"role": "assistant", "content": a}),
            origin=f"r{i}",
        )
        for i, (q, a) in enumerate(pairs)
    ]


CASES = {
    ("classification", "accuracy"): rows([(f"headline {i}", str(i % 2)) for i in range(12)]),
    ("multiple_choice", "accuracy"): [
        replace(e, choices=("yes", "no", f"{i}"))
        for i, e in enumerate(rows([(f"is it {i}?", "yes") for i in range(6)]))
    ],
    ("question_answering", "token_f1"): rows([(f"Who is {i}?", f"person {i}") for i in range(12)]),
    ("question_answering", "number_match"): rows(
        [(f"How many are {i}?", f"{i} + 1\n#### {i}") for i in range(9)]
    ),
    ("translation", "chrf"): rows(
        [(f"satz {i}", f"sentence {i}") for i in range(9)], "Translate to English."
    ),
    ("extraction", "label_f1"): rows([(f"text {i}", f'{{"PER": ["p{i}"]}}') for i in range(9)]),
    ("extraction", "bracket_f1"): rows(
        [(f"text {i}", f"(S (NP the w{i}) (VP sat))") for i in range(9)]
    ),
    ("generation", "rouge_l"): rows([(f"write {i}", f"a long text about {i}") for i in range(9)]),
    ("language_modelling", "perplexity"): [Example(text=f"text {i}") for i in range(5)],
}


@pytest.mark.parametrize("expected", CASES, ids="/".join)
def test_tasks_are_found(expected):
    found = tasks.detect(CASES[expected])
    assert (found.kind, found.metric) == expected
    assert bool(found.labels) == (found.kind == "classification")


def test_the_user_has_the_last_word():
    examples = CASES["classification", "accuracy"]
    found = tasks.detect(examples)
    assert tasks.settle_task(found, examples, None, "macro-f1").metric == "macro_f1"
    free = tasks.settle_task(found, examples, "generation", None)
    assert (free.kind, free.metric, free.labels) == ("generation", "rouge_l", ())
    back = tasks.settle_task(free, examples, "classification", None)
    assert back.labels == ("0", "1")
    for kind, metric, said in (
        ("classifying", None, "--task is 'classifying'"), (None, "bleux", "there is no bleux"),
        ("generation", "accuracy", "which needs labels"), ("multiple_choice", None, "needs --choices"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            tasks.settle_task(found, examples, kind, metric)
    with pytest.raises(ConfigError, match="plain texts"):
        texts = CASES["language_modelling", "perplexity"]
        tasks.settle_task(tasks.detect(texts), texts, None, "bleu")


def test_what_cannot_be_measured_is_named():
    one = rows([(f"q {i}", "yes") for i in range(9)])
    assert "same answer 'yes'" in tasks.faults(one, tasks.detect(one))[0]
    alike = rows([(f"q {i}", ["yes", "Yes", "no"][i % 3]) for i in range(12)])
    said = tasks.faults(alike, tasks.detect(alike))
    assert len(said) == 1 and "'Yes' (4 rows) and 'yes' (4 rows)" in said[0]
    missing = rows([("q", ["yes", "no", " "][i % 3]) for i in range(12)])
    assert "4 rows have no answer or label (r2, r5" in tasks.faults(missing, tasks.detect(missing))[0]
    assert not tasks.faults(
        CASES["generation", "rouge_l"], tasks.detect(CASES["generation", "rouge_l"])
    )
