"""Observers: whoever is told how a training goes, and what it is told.

A terminal's bar, the heartbeat in the store, log.jsonl, a job's events, a climb's pruning and every
tracker are observers. Each overrides what it wants to know; `Observers` tells many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter
    from rung.store.records import ModelRecord
    from rung.train.checkpoint import State
    from rung.train.estimate import Estimate
    from rung.train.plan import Plan
    from rung.train.prepare import Prepared

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Started:
    """A training whose first step comes next, once the frozen part has been computed.

    Attributes:
        adapter: as training changes it.
        per_epoch: optimiser steps in an epoch.
    """

    run: str
    plan: Plan
    prepared: Prepared
    adapter: Adapter
    estimate: Estimate
    per_epoch: int


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimiser step. `metrics` are the objective's, means over the step's rows."""

    step: int  # counted from 1
    metrics: dict[str, float]
    lr: float
    gradient_norm: float  # before clipping
    tokens: int
    seconds: float

    def entry(self) -> dict[str, Any]:
        """The step as one flat mapping."""
        return {
            "step": self.step, **self.metrics, "lr": self.lr, "gradient_norm": self.gradient_norm,
            "tokens": self.tokens, "seconds": self.seconds,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The validation rows measured after a step.

    Attributes:
        metrics: the objective's, means over all validation rows.
        best: the name of the metric that the best weights are chosen by, one of `metrics`.
        tokens_seen: in training until then.
    """

    step: int
    metrics: dict[str, float]
    best: str
    tokens_seen: int

    @property
    def value(self) -> float:
        """Of the metric that the best weights are chosen by."""
        return self.metrics[self.best]

    def entry(self) -> dict[str, Any]:
        """The validation as one flat mapping, its metrics as `validation_NAME`."""
        named = {f"validation_{k}": v for k, v in self.metrics.items()}
        return {"step": self.step, "tokens_seen": self.tokens_seen, **named}


@dataclass(frozen=True)
class Stop:
    """An observer's wish to end a training; the best weights so far are what it gives."""

    reason: str


@dataclass(kw_only=True)
class Made:
    """What a training, or a method's fit, gave. Nobody has decided yet whether to keep it.

    Attributes:
        run: the id of its run in the store.
        observers: to be told how it ends.
        stopped: why an observer ended it early.
        told: what a climb's table says beside the figure, in a few words.
        spared: seconds that it took once to compute hidden states that were found on disk.
        asked: whether somebody asked to stop, and it came to its end before it looked.
    """

    plan: Plan
    prepared: Prepared
    adapter: Adapter
    state: State
    metrics: dict[str, Any]
    run: str
    observers: Observer
    stopped: Stop | None = None
    told: str = ""
    spared: float = 0.0
    asked: bool = False


@dataclass(kw_only=True)
class Outcome(Made):
    """What a tuning gave, kept as a model."""

    model: ModelRecord
    cost: dict[str, Any]


class Observer:
    """Told how a training goes. Every method may be left as it is."""

    def stage(self, text: str) -> None:
        """A new part of the work begins."""

    def note(self, text: str) -> None:
        """Something that the user should know, in one line."""

    def prepared(self, prepared: Prepared) -> None:
        """Data and base are there, for a training or a fit; `prepared.problems` is what to warn of."""

    def started(self, started: Started) -> None:
        """All is ready; what lies below the layers that change may still be computed."""

    def begin(self, steps: int, at: int) -> None:
        """The first of `steps` optimiser steps comes next; `at` of them were done before."""

    def step(self, event: Step) -> None:
        """An optimiser step was done."""

    def validated(self, event: Validation) -> Stop | None:
        """The validation rows were measured. A Stop ends the training."""
        return None

    def finished(self, made: Made) -> None:
        """The run is over: an Outcome where a model was kept, else what was made and dropped."""

    def failed(self, fault: BaseException) -> None:
        """The run ended by a fault, or was interrupted."""


@dataclass
class Observers(Observer):
    """Tells many. One that raises is told of once, by a note to the others, and told nothing more."""

    every: list[Observer] = field(default_factory=list)

    @classmethod
    def of(cls, *observers: Observer | None) -> Observers:
        """Those that are not None."""
        return cls([o for o in observers if o is not None])

    def stage(self, text: str) -> None:
        self._tell(lambda o: o.stage(text))

    def note(self, text: str) -> None:
        self._tell(lambda o: o.note(text))

    def prepared(self, prepared: Prepared) -> None:
        self._tell(lambda o: o.prepared(prepared))

    def started(self, started: Started) -> None:
        self._tell(lambda o: o.started(started))

    def begin(self, steps: int, at: int) -> None:
        self._tell(lambda o: o.begin(steps, at))

    def step(self, event: Step) -> None:
        self._tell(lambda o: o.step(event))

    def validated(self, event: Validation) -> Stop | None:
        return next((stop for stop in self._tell(lambda o: o.validated(event)) if stop), None)

    def finished(self, made: Made) -> None:
        self._tell(lambda o: o.finished(made))

    def failed(self, fault: BaseException) -> None:
        self._tell(lambda o: o.failed(fault))

    def _tell(self, what: Callable[[Observer], T]) -> list[T]:
        answers, faults = [], []
        for observer in list(self.every):
            try:
                answers.append(what(observer))
            except Exception as fault:
                self.every.remove(observer)
                said = " ".join(str(fault).split()) or type(fault).__name__
                faults.append(f"{_name(observer)} failed and is told nothing more: {said}")
        for line in faults:
            self.note(line)
        return answers


def _name(observer: Observer) -> str:
    return str(getattr(observer, "name", type(observer).__name__))
