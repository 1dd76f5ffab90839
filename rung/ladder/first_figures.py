"""The figures that all others are held against: the baseline, and the base as it is.

The baseline is fitted and measured before the base is loaded, so that a first figure stands in the
table within seconds of the data being read. Loading the base counts to the row `base`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from rung import home
from rung.evals.answers import Answers
from rung.evals.measure import Measured, measure
from rung.evals.predict import predict_without_base
from rung.ladder.answers import kept_items, one_answer
from rung.ladder.attempts import Attempt, stopping_at
from rung.ladder.bar import BASE
from rung.ladder.cost import Cost
from rung.ladder.levels import Level
from rung.ladder.meter import now
from rung.ladder.rungs import Rung
from rung.ladder.task_context import TaskContext
from rung.methods.base import Fitted, Study
from rung.store.climbs import RungRecord


@dataclass(frozen=True, kw_only=True)
class FirstFigure:
    """The baseline as it was fitted and measured without a base.

    Attributes:
        making, answering: seconds of the fit, and of one answer among many.
    """

    key: str
    fitted: Fitted
    answers: Answers
    measured: Measured
    making: float
    answering: float

    def record(self, climb: str, rung: Rung, bench: TaskContext) -> RungRecord:
        """Its row of the table until it is kept as a model."""
        rows = len(bench.splits.train)
        metrics = {
            "validation": self.measured.as_dict(), "only": one_answer(self.answers, bench.task),
            "share": 1.0, "rows": rows, "rows_of": rows, "held_of": len(bench.validation),
            "choice": self.fitted.metrics.get("choice"),
        }  # fmt: skip
        cost = Cost(seconds=self.making, wall=self.making, request_seconds=self.answering)
        return RungRecord(
            climb, self.key, rung.method.name, settings=dict(rung.settings), status="succeeded",
            metrics=metrics, cost=cost.as_dict(bench.knobs.requests, bench.knobs.price),
            items={"validation": kept_items(self.answers, self.measured)},
        )  # fmt: skip


def without_base(
    bench: TaskContext, rung: Rung, until: float, note: Callable[[str], None]
) -> FirstFigure | None:
    """Fit a rung that needs no base on all rows, and measure it; None where it does not suit the task.

    Args:
        until: on the meter's clock, when its time is over.

    Raises:
        OutOfTime: when it was. Else whatever the method raises.
    """
    config = bench.plan("planned", rung).config
    if (rung.method.misread(bench.task) or rung.method.unsuited(bench.task, config)) is not None:
        return None
    nothing = cast(Any, None)  # a baseline does without bank and template, as `Method.baseline` says
    study = Study(
        nothing, nothing, bench.task, list(bench.splits.train), list(bench.validation), 0,
        home.folder("cache"), note, stopping_at(until),
    )  # fmt: skip
    began = now()
    fitted = rung.method.fit(study, config)
    made = now()
    answers = predict_without_base(fitted.adapter, bench.validation, bench.task)
    measured = measure(answers, bench.validation, bench.task)
    each = (now() - made) / max(len(bench.validation), 1)
    return FirstFigure(
        key=rung.key, fitted=fitted, answers=answers, measured=measured, making=made - began,
        answering=each,
    )  # fmt: skip


def base_as_it_is(
    bench: TaskContext, record: RungRecord, held: int, limit: float, loading: float
) -> tuple[RungRecord, float]:
    """Measure the base on validation rows.

    Args:
        held: of validation, how many. limit: seconds of measuring at most.
        loading: seconds that it took to load, which are part of its wall time.

    Returns:
        its row, and seconds of an answer.

    Raises:
        OutOfTime: when the limit was reached first.
    """
    rows, began = bench.validation[:held], now()
    with bench.served(bench.opened, None, BASE) as model:
        answers, measured = bench.answer(bench.opened, model, rows, stopping_at(began + limit))
        each = (now() - began) / max(len(rows), 1)
        request = bench.time_requests(bench.opened, model)
    cost = Cost(
        wall=loading + now() - began, request_seconds=request.seconds,
        request_tokens=request.tokens, request_low=request.low, request_high=request.high,
    )  # fmt: skip
    attempt = Attempt(params={}, level=Level(1.0, held), answering=each, measured=measured)
    only = one_answer(answers, bench.task)
    kept = dataclasses.replace(
        record,
        metrics={"validation": measured.as_dict(), "only": only, "held_of": len(bench.validation)},
        cost=cost.as_dict(bench.knobs.requests, bench.knobs.price),
        items={"validation": kept_items(answers, measured)},
        trials={"done": [*record.trials.get("done", []), attempt.as_dict()]},
    )
    return kept, each
