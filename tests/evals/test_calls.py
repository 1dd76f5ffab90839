"""Calls are compared as data: names, arguments and values, whatever their order."""

from __future__ import annotations

import json

import pytest

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


def test_calls_side_by_side_have_no_order():
    both = f"{RIGHT}\n{call('g')}"
    row = Example(({"role": "user", "content": "q"}, {"role": "assistant", "content": both}))
    turned = Answers([f"{call('g')}\n{RIGHT}"])
    assert measure(turned, [row], Task("tool_calls", "exact_call")).value == 1
