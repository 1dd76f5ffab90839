"""The bar: read from what the user writes, and refused where nothing could be measured by it."""

from __future__ import annotations

import pytest

from rung.errors import ConfigError
from rung.evals import metrics
from rung.ladder.bar import Bar
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.task_context import judged_by
from rung.types import Example, Task

YES_NO = Task("classification", "accuracy", ("no", "yes"))
OPEN = Task("generation", "rouge_l")
TEXT = Task("language_modelling", "perplexity")


@pytest.mark.parametrize(
    ("text", "bar"),
    [
        ("accuracy=0.84", Bar("accuracy", 0.84)),
        (" macro-f1 >= 0.8 ", Bar("macro_f1", 0.8)),
        ("perplexity<=12", Bar("perplexity", 12.0, lower=True)),
        ("bleu=1e1", Bar("bleu", 10.0)),
    ],
)
def test_reads(text: str, bar: Bar) -> None:
    assert Bar.parse(text) == bar
    assert Bar.parse(str(bar)) == bar


@pytest.mark.parametrize(
    "text",
    ["", "0.84", "accuracy", "accuracy=", "=0.8", "accuracy=good", "accuracy=inf", "a=b=1", "a==1"],
)
def test_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match="--bar is"):
        Bar.parse(text)


def test_is_cleared_from_its_own_side() -> None:
    assert Bar("accuracy", 0.8).cleared(0.8) and not Bar("accuracy", 0.8).cleared(0.79)
    assert Bar("perplexity", 12, lower=True).cleared(12) and not Bar("perplexity", 12, True).cleared(
        12.1
    )


@pytest.mark.parametrize(
    ("task", "bar", "metric"),
    [
        (YES_NO, None, "accuracy"),
        (YES_NO, "macro_f1=0.8", "macro_f1"),
        (OPEN, "chrf=40", "chrf"),
        (OPEN, "perplexity<=9", "perplexity"),
        (TEXT, "perplexity<=30", "perplexity"),
    ],
)
def test_a_bar_says_what_counts(task: Task, bar: str | None, metric: str) -> None:
    settled = judged_by(task, [], ClimbKnobs(bar=bar), Bar.parse(bar) if bar else None)
    assert settled.metric == metric and settled.kind == task.kind
    assert metrics.get(settled.metric).lower == (metric == "perplexity")


@pytest.mark.parametrize(
    ("task", "bar", "said"),
    [
        (YES_NO, "acuracy=0.8", "there is no acuracy, did you mean 'accuracy'?"),
        (YES_NO, "perplexity<=9", "a task of classification is not measured by perplexity"),
        (TEXT, "accuracy=0.9", "a task of language modelling is not measured by accuracy"),
        (OPEN, "accuracy=0.9", "a task of generation is not measured by accuracy"),
        (YES_NO, "accuracy=1.7", "accuracy is at least 0 and at most 1$"),
        (YES_NO, "accuracy=84", "did you mean 0.84?"),
        (YES_NO, "accuracy=-0.1", "at least 0"),
        (TEXT, "perplexity<=0.5", "perplexity is at least 1$"),
        (TEXT, "perplexity=12", "less is better; write perplexity<=12"),
        (YES_NO, "accuracy<=0.5", "more is better; write accuracy=0.5"),
        (Task("translation", "chrf"), "bleu=101", "at least 0 and at most 100$"),
    ],
)
def test_a_bar_that_cannot_be_measured(task: Task, bar: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        judged_by(task, [], ClimbKnobs(bar=bar), Bar.parse(bar))


def test_bar_and_metric_must_agree() -> None:
    knobs = ClimbKnobs(bar="accuracy=0.8", metric="macro-f1")
    with pytest.raises(ConfigError, match="--bar is about accuracy and --metric about macro_f1"):
        judged_by(YES_NO, [], knobs, Bar("accuracy", 0.8))
    same = ClimbKnobs(bar="macro-f1=0.8", metric="macro-f1")
    assert judged_by(YES_NO, [], same, Bar.parse("macro-f1=0.8")).metric == "macro_f1"


def test_another_kind_of_task_has_another_metric() -> None:
    told = judged_by(YES_NO, [], ClimbKnobs(task="generation"), None)
    assert told.kind == "generation" and not told.labels and told.metric != YES_NO.metric
    rows = [
        Example(({"role": "user", "content": "q"}, {"role": "assistant", "content": f"{i}"}))
        for i in range(9)
    ]
    with pytest.raises(ConfigError, match="9 different replies in 9 rows are no labels"):
        judged_by(OPEN, rows, ClimbKnobs(task="classification"), None)
