"""A worker of a climb: a process that holds the base and makes one attempt after another."""

from __future__ import annotations

import dataclasses
import os
import pickle
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from rung.errors import DataError, Interrupted
from rung.ladder.first_figures import base_as_it_is
from rung.ladder.forecast import Forecaster, Prediction
from rung.ladder.machine import Machine, settle_threads
from rung.ladder.rungs import Rung
from rung.ladder.scheme import Step
from rung.ladder.stopping import stopped_by_terminate
from rung.ladder.task_context import TaskContext
from rung.ladder.trials import Trial
from rung.store import Store
from rung.store.climbs import RungRecord
from rung.train.observers import Observer
from rung.train.prepare import find_base


@dataclass(frozen=True, kw_only=True)
class Order:
    """One attempt, as the climb's controller wants it made.

    Attributes:
        rung: None for the base as it is. record: its row. limit: seconds after which it ends.
        room: seconds that the climb has for attempts.
        name: of the model it makes. since: when the climb began.
        machine: the speed by which the controller plans, so that every worker plans alike.
        loading: seconds that the controller took to load the base.
    """

    rung: Rung | None
    record: RungRecord
    step: Step
    prediction: Prediction
    limit: float
    room: float
    name: str
    since: str
    machine: Machine
    loading: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How an attempt ended.

    Attributes:
        record: the row, where it gave a figure. fault: what it raised.
        stopped: whether it was asked to stop. notes: lines for the user.
    """

    record: RungRecord | None = None
    fault: Exception | None = None
    stopped: bool = False
    notes: tuple[str, ...] = ()


class Notes(Observer):
    """Keeps the lines that the user should see."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


class TrialWorker:
    """Holds data and base; knows nothing of how it was started or is asked.

    Args:
        bench: without its base, as `portable` makes it. threads: to compute with.
    """

    def __init__(self, bench: TaskContext, threads: int):
        torch.set_num_threads(threads)
        self.bench = bench
        self.store = Store.open()

    def where(self) -> tuple[str, int]:
        """(host, process)."""
        return platform.node(), os.getpid()

    def attempt(self, order: Order) -> Answer:
        """Make one attempt; whatever it raises is part of the answer."""
        bench, watcher = self.bench, Notes()
        with stopped_by_terminate():
            try:
                self._plan_by(order.machine)
                settle_threads(str(bench.opened.bank.device))
                record = self._make(order, watcher)
                return Answer(record=record, notes=tuple(watcher.lines))
            except (Interrupted, KeyboardInterrupt):
                return Answer(stopped=True)
            except Exception as fault:
                return Answer(fault=_portable(fault), notes=tuple(watcher.lines))
            finally:
                bench.close_others()

    def _plan_by(self, machine: Machine) -> None:
        """Load the base, once, and expect of this machine what the controller does.

        Raises:
            DataError: where this host finds another base under that name.
        """
        bench = self.bench
        if "forecaster" in vars(bench):
            bench.forecaster.machine = machine
            return
        if not Path(bench.info.path).exists():
            found = find_base(bench.run, bench.splits)
            if found.digest != bench.info.digest:
                raise DataError(f"{platform.node()} has another base under the name {bench.run.base}")
            bench.info = found
        vars(bench)["forecaster"] = Forecaster.of(bench, machine)  # in place of measuring its own

    def _make(self, order: Order, watcher: Observer) -> RungRecord:
        bench, step = self.bench, order.step
        if order.rung is None:
            return base_as_it_is(bench, order.record, step.level.held, order.limit, order.loading)[0]
        trial = Trial(
            bench, order.rung, order.record, step, order.prediction, order.limit, order.name,
            self.store, watcher, order.since, room=order.room,
        )  # fmt: skip
        return trial.run()


def portable(bench: TaskContext) -> TaskContext:
    """The same task without the base in memory, as it is sent to workers."""
    return dataclasses.replace(bench, stage=_unheard, touched=[], _others={}, _parts={})


def _unheard(text: str) -> None:
    """Workers' stages are told by the controller, which knows all of them."""


def _portable(fault: Exception) -> Exception:
    """A fault that another process can read."""
    try:
        pickle.loads(pickle.dumps(fault))
    except Exception:  # noqa: BLE001 - whatever its class does when it is read
        return RuntimeError(f"{type(fault).__name__}: {fault}")
    return fault
