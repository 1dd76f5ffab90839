"""Calls are compared as data: names, arguments and values, whatever their order."""

from __future__ import annotations

import json

import pytest

from rung.errors import ConfigError
from rung.evals.answers import Calls
from rung.evals.measure import measure
from rung.evals.predict import Answers
from rung.evals.tasks import detect
from rung.types import Example, Task


def call(name: str, **arguments) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


RIGHT = call("f", a=1, b="x")


@pytest.mark.parametrize(
    ("answer", "exact", "f1"),
    [
        (RIGHT, 1, 1.0),
        (call("f", b="x", a=1.0), 1, 1.0),
        (call("f", a="1", b="x"), 0, 2 / 3),
        (call("g", a=1, b="x"), 0, 0.0),
        (call("f", a=1), 0, 4 / 5),
        (f"{RIGHT}\n{RIGHT}", 0, 2 / 3),
        ("no call", 0, 0.0),
    ],
)
def test_one_answer(answer, exact, f1):
    row = Example(({"role": "user", "content": "q"}, {"role": "assistant", "content": RIGHT}))
    assert detect([row] * 5).kind == "tool_calls"
    for metric, value in (("exact_call", exact), ("argument_f1", f1)):
        found = measure(Answers([answer]), [row], Task("tool_calls", metric))
        assert found.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "exact"),
    [("It is noon.", 1), ("", 1), (RIGHT, 0), (f"So: {RIGHT}", 0), ('<tool_call>{"name": "f', 0)],
)
def test_where_no_call_is_wanted_calling_nothing_is_right(answer, exact):
    asked = {"role": "user", "content": "q"}
    rows = [Example((asked, {"role": "assistant", "content": text})) for text in (RIGHT, "noon")]
    found = measure(Answers([RIGHT, answer]), rows, Task("tool_calls", "exact_call"))
    assert list(found.items) == [1, exact]


def test_calls_side_by_side_have_no_order():
    both = f"{RIGHT}\n{call('g')}"
    row = Example(({"role": "user", "content": "q"}, {"role": "assistant", "content": both}))
    turned = Answers([f"{call('g')}\n{RIGHT}"])
    assert measure(turned, [row], Task("tool_calls", "exact_call")).value == 1


def row_with(*calls: str) -> Example:
    """A row that makes these calls, each answered, before its reply."""
    answered = [
        turn
        for made in calls
        for turn in (
            {"role": "assistant", "content": made},
            {"role": "user", "content": "<tool_response>ok</tool_response>", "result": True},
        )
    ]
    asked = {"role": "user", "content": "q"}
    return Example((asked, *answered, {"role": "assistant", "content": "done"}), tools=("t.py",))


@pytest.mark.parametrize(
    ("made", "tools", "calls"),
    [
        ((RIGHT, call("g")), 1, 1),
        ((f"{call('g')}\n{RIGHT}",), 1, 1),  # side by side, in one step
        ((call("f", a=2, b="x"), call("g")), 1, 0),
        ((RIGHT,), 0, 0),
        ((), 0, 0),
    ],
)
def test_what_an_agent_called_is_held_against_the_rows_own_calls(made, tools, calls):
    rows = [row_with(RIGHT, call("g")), row_with()]
    assert rows[0].asked == rows[1].asked == rows[0].messages[:1]
    found = [Calls("\n".join(made), len(made), len(made)), Calls("", 0, 0)]
    answers = Answers(["done", "done"], calls=found)
    task = Task("generation", "exact_match")
    measured = measure(answers, rows, task)
    assert measured.value == 1
    # Rows without calls of their own say nothing of which were right.
    assert measured.more["right_tools"] == tools and measured.more["right_calls"] == calls
    assert measured.more["steps_taken"] == len(made) / 2
    assert measure(answers, rows, Task("generation", "steps_taken")).lower


def test_a_model_without_tools_has_no_figures_of_calls():
    task = Task("generation", "right_tools")
    with pytest.raises(ConfigError, match="name some with --tools"):
        measure(Answers(["done"]), [row_with(RIGHT)], task)
    measured = measure(Answers(["done"]), [row_with(RIGHT)], Task("generation", "exact_match"))
    assert "steps_taken" not in measured.more


def test_without_calls_in_the_rows_only_the_steps_are_told():
    answers = Answers(["done"], calls=[Calls(RIGHT, 1, 1)])
    measured = measure(answers, [row_with()], Task("generation", "exact_match"))
    assert measured.more["steps_taken"] == 1 and "right_tools" not in measured.more
