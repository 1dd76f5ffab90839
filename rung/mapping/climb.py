"""The climb of a mapping: rungs from the cheapest up, to the first that clears the bar."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from rung.errors import ConfigError, DataError, Interrupted
from rung.evals.compare import Comparison
from rung.mapping import rungs
from rung.mapping.candidates import NOBODY, assign
from rung.mapping.confidence import Calibration, calibrate, threshold
from rung.mapping.measure import Figures, compare
from rung.mapping.problem import Problem
from rung.mapping.rungs.base import Candidates, Rung, Scorer

DEFAULT_METRIC = "f1"
LEAST_THRESHOLD = 0.05  # of a probability: what is less likely is offered to nobody
UNMEASURED_THRESHOLD = 0.25  # of a similarity, where no pairs are known


class Bar(Protocol):
    """What `rung.ladder.bar.Bar` is, which stands above this part."""

    @property
    def metric(self) -> str: ...

    def cleared(self, value: float) -> bool: ...


@dataclass(kw_only=True)
class Tried:
    """One rung of a climb.

    Attributes:
        reason: why it was not tried; "" where it was.
        confidences: (left, k) of its candidates. chosen: (left,) columns of them, NOBODY for none.
        validation, test: figures on these parts, where pairs are known and the part was looked at.
        seconds: fitting, scoring and assigning.
    """

    rung: Rung
    reason: str = ""
    scorer: Scorer | None = None
    candidates: Candidates | None = None
    confidences: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    chosen: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    calibration: Calibration = field(default_factory=Calibration)
    threshold: float = UNMEASURED_THRESHOLD
    validation: Figures | None = None
    test: Figures | None = None
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.rung.name

    def answers(self, rows: np.ndarray, at: float) -> np.ndarray:
        """Places of the right records that left records become at a threshold; NOBODY for none."""
        assert self.candidates is not None
        columns = self.chosen[rows]
        picked = np.maximum(columns, 0)
        kept = (columns != NOBODY) & (self.confidences[rows, picked] >= at)
        return np.where(kept, self.candidates.places[rows, picked], NOBODY)


@dataclass(kw_only=True)
class Outcome:
    """What a climb found.

    Attributes:
        tried: every rung, in their order. winner: the one whose mapping is given.
        metric: what was compared. cleared: whether the winner clears the bar on validation; None
            without a bar. comparisons: of the winner with others on the test part, by their names.
    """

    problem: Problem
    tried: list[Tried]
    winner: Tried
    metric: str
    cleared: bool | None = None
    comparisons: dict[str, Comparison] = field(default_factory=dict)


def climb(problem: Problem, bar: Bar | None = None) -> Outcome:
    """Try rungs from the cheapest up and measure them on validation; the test part is looked at once.

    Raises:
        ConfigError: for an unknown rung, or a bar without pairs to measure by.
        DataError: when no rung could be tried. Interrupted: as the problem says.
    """
    knobs, parts = problem.knobs, problem.parts
    if bar is not None and parts is None:
        raise ConfigError("--bar needs known pairs to measure by: give some with --pairs")
    metric = bar.metric if bar is not None else DEFAULT_METRIC
    tried: list[Tried] = []
    scorers: dict[str, Scorer] = {}
    done = False
    for rung in _chosen(knobs.only):
        reason = rung.refusal(problem) or ("the bar was cleared below" if done else "")
        if reason:
            tried.append(Tried(rung=rung, reason=reason))
            continue
        if problem.stopping():
            raise Interrupted
        found = attempt(problem, rung, scorers, metric)
        assert found.scorer is not None
        scorers[rung.name] = found.scorer
        tried.append(found)
        if bar is not None and found.validation is not None and not knobs.all:
            done = bar.cleared(found.validation.value(metric))
    measured = [one for one in tried if not one.reason]
    if not measured:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in tried)
        raise DataError(f"no rung can be tried: {reasons}")
    winner = _winner(measured, metric, bar)
    outcome = Outcome(problem=problem, tried=tried, winner=winner, metric=metric)
    if parts is not None:
        assert winner.validation is not None
        if bar is not None:
            outcome.cleared = bar.cleared(winner.validation.value(metric))
        _examine(outcome, measured)
    return outcome


def _chosen(only: list[str]) -> list[Rung]:
    """All rungs, or those named, the cheapest first. Raises ConfigError for an unknown one."""
    wanted = {rungs.get(name).name for name in only}
    return [rung for rung in rungs.ordered() if not wanted or rung.name in wanted]


def attempt(problem: Problem, rung: Rung, cheaper: dict[str, Scorer], metric: str) -> Tried:
    """Fit a rung, map every left record by it, and measure that on validation."""
    started = time.monotonic()
    scorer = rung.fit(problem, cheaper)
    found = Tried(
        rung=rung, scorer=scorer, candidates=scorer.top(problem.left, problem.knobs.candidates)
    )
    assert found.candidates is not None
    if (parts := problem.parts) is not None:
        rows = parts.validation if rung.learns else np.union1d(parts.train, parts.validation)
        seen = Candidates(found.candidates.places[rows], found.candidates.scores[rows])
        found.calibration = calibrate(seen, problem.gold(rows))
    found.confidences = found.calibration.confidence(found.candidates)
    found.chosen = assign(
        found.candidates, found.confidences, len(problem.right), problem.knobs.many_to_one
    )
    _choose_threshold(problem, found, metric)
    found.seconds = time.monotonic() - started
    return found


def _choose_threshold(problem: Problem, found: Tried, metric: str) -> None:
    """Set the threshold that is best on validation, or the one that was asked for."""
    given, parts = problem.knobs.threshold, problem.parts
    found.threshold = UNMEASURED_THRESHOLD if given is None else given
    if parts is None:
        return
    rows, gold = parts.validation, problem.gold(parts.validation)
    if given is None:
        # Precision and coverage alone would map nothing or everything.
        by = metric if metric in ("accuracy", "f1") else "f1"
        columns = found.chosen[rows]
        sure = np.where(columns != NOBODY, found.confidences[rows, np.maximum(columns, 0)], 0.0)
        found.threshold = threshold(
            sure, lambda t: Figures.of(found.answers(rows, t), gold).value(by), LEAST_THRESHOLD
        )
    found.validation = Figures.of(found.answers(rows, found.threshold), gold)


def _winner(measured: list[Tried], metric: str, bar: Bar | None) -> Tried:
    """The cheapest that clears the bar, else the best on validation, the cheaper of equals; without
    pairs the dearest, which reads most."""
    if any(one.validation is None for one in measured):
        return measured[-1]
    values = {one.name: one.validation.value(metric) for one in measured if one.validation}
    if bar is not None:
        for one in measured:
            if bar.cleared(values[one.name]):
                return one
    return max(measured, key=lambda one: values[one.name])


def _examine(outcome: Outcome, measured: list[Tried]) -> None:
    """Measure winner, runner-up and floor on the test part, and compare them there."""
    problem, winner = outcome.problem, outcome.winner
    assert problem.parts is not None
    rows, gold = problem.parts.test, problem.gold(problem.parts.test)
    others = [one for one in measured if one is not winner]
    values = {one.name: one.validation.value(outcome.metric) for one in others if one.validation}
    runner_up = max(others, key=lambda one: values[one.name], default=None)
    for one in measured:
        if one is winner or one is runner_up or one is measured[0]:
            one.test = Figures.of(one.answers(rows, one.threshold), gold)
    assert winner.test is not None
    outcome.comparisons = {
        one.name: compare(one.test, winner.test, outcome.metric)
        for one in others
        if one.test is not None
    }


def final(outcome: Outcome) -> Tried:
    """The winner's mapping of all left records, in which what is known stands as it is known.

    One-to-one, a right record that is known to be somebody's is nobody else's.
    """
    winner, problem = outcome.winner, outcome.problem
    assert winner.candidates is not None
    confidences = winner.confidences.copy()
    places = {r.id: i for i, r in enumerate(problem.right)}
    known = np.array([r.id in problem.known for r in problem.left], dtype=bool)
    if not problem.knobs.many_to_one:
        taken = np.zeros(len(problem.right), dtype=bool)
        taken[[places[key] for found in problem.known.values() for key in found]] = True
        confidences[taken[winner.candidates.places]] = 0.0
    confidences[known] = 0.0
    chosen = assign(winner.candidates, confidences, len(problem.right), problem.knobs.many_to_one)
    return replace(winner, chosen=chosen, confidences=confidences)
