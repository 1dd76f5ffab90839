"""Metrics of tool calls: whether they are those of the reference, and how many arguments are right."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from rung.data.tool_calls import OPEN
from rung.evals.metrics.base import Case, Metric, Statistics, mean, of_pairs
from rung.tools.calls import Call, parse

KIND = ("tool_calls",)


def _key(value: Any) -> str:
    """A value as text that is equal for equal values: 2 and 2.0 are, "2" and 2 are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, dict):
        return json.dumps({k: _key(v) for k, v in value.items()}, sort_keys=True)
    if isinstance(value, list):
        return json.dumps([_key(v) for v in value])
    return json.dumps(value)


def _canonical(call: Call) -> tuple[str, str]:
    return call.name, _key(call.values)


def exact_call(answer: str, reference: str) -> float:
    """1 where the answer makes the reference's calls and no others; side by side they have no order.

    Without calls in the reference, calling nothing is right; a call that cannot be read is still one.
    """
    made, wanted = (Counter(map(_canonical, parse(text)[1])) for text in (answer, reference))
    return float(made == wanted and (bool(wanted) or OPEN not in answer + reference))


def _parts(text: str) -> Counter[tuple[str, str, str]]:
    """(function, argument, value) of every argument, and each function by itself."""
    found: Counter[tuple[str, str, str]] = Counter()
    for call in parse(text)[1]:
        found[(call.name, "", "")] += 1
        values = call.values
        for name, value in values.items() if isinstance(values, dict) else ():
            found[(call.name, name, _key(value))] += 1
    return found


def _argument_counts(case: Case) -> np.ndarray:
    rows = []
    for text, reference in zip(case.texts, case.references, strict=True):
        made, wanted = _parts(text), _parts(reference)
        rows.append([(made & wanted).total(), made.total(), wanted.total()])
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _f1(sums: np.ndarray) -> np.ndarray:
    """(..., 3) of right, made and wanted -> (...)."""
    both = sums[..., 1] + sums[..., 2]
    return np.where(both > 0, 2 * sums[..., 0] / np.maximum(both, 1e-12), 0.0)


def _made(judge: Callable[[str, str], float]) -> Statistics:
    """Statistics of a mean over the rows that hold calls themselves: calls made against those."""

    def statistics(case: Case) -> np.ndarray:
        pairs = zip(case.calls or (), case.wanted, strict=True)
        found = [[judge(c.text, wanted), 1.0] if wanted else [0.0, 0.0] for c, wanted in pairs]
        return np.array(found, dtype=np.float64).reshape(-1, 2)

    return statistics


def right_tools(made: str, wanted: str) -> float:
    """1 where the same functions are called, each as often."""
    one, other = (Counter(call.name for call in parse(text)[1]) for text in (made, wanted))
    return float(one == other)


def _steps(case: Case) -> np.ndarray:
    return np.array([[c.steps, 1.0] for c in case.calls or ()], dtype=np.float64).reshape(-1, 2)


def _mean(sums: np.ndarray) -> np.ndarray:
    """(..., 2) of total and count -> (...), NaN where nothing was counted."""
    return np.where(sums[..., 1] > 0, sums[..., 0] / np.maximum(sums[..., 1], 1e-12), np.nan)


metrics = [
    Metric(
        "exact_call",
        "share of answers with the reference's calls, or none as there: function, arguments and values",
        of_pairs(exact_call),
        kinds=KIND,
    ),
    Metric(
        "argument_f1",
        "F1 of functions and argument values over all calls",
        _argument_counts,
        _f1,
        kinds=KIND,
    ),
    Metric(
        "right_tools",
        "share of rows with calls of their own for which an agent called the same functions",
        _made(right_tools),
        _mean,
        item=mean,
        reads="calls",
    ),
    Metric(
        "right_calls",
        "share of rows with calls of their own for which an agent made the same ones, arguments too",
        _made(exact_call),
        _mean,
        item=mean,
        reads="calls",
    ),
    Metric(
        "steps_taken",
        "how often tools answered an agent before its reply, in the mean",
        _steps,
        _mean,
        item=mean,
        lower=True,
        bounds=(0.0, math.inf),
        reads="calls",
    ),
]
