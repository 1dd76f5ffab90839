"""One tuning from configuration to model, fresh or resumed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rung import home, objectives
from rung.errors import ConfigError, DataError
from rung.evals.tasks import detect
from rung.forward.adapter import Adapter
from rung.methods.base import Study
from rung.store import Store
from rung.store.records import RunRecord
from rung.train import estimate
from rung.train.checkpoint import State
from rung.train.loop import Interrupted, Reporter, Silent, Work, train
from rung.train.order import Order
from rung.train.plan import Plan
from rung.train.prepare import Prepared, adapter_of, prepare
from rung.train.result import Outcome, data_record, keep, losses


class Watcher(Reporter, Protocol):
    """A reporter that is also told of stages and of what was prepared."""

    def stage(self, text: str) -> None:
        """A new part of the work begins."""
        return

    def prepared(self, prepared: Prepared, estimate: estimate.Estimate, adapter: Adapter) -> None:
        """All is ready for the first step."""
        return


class Quiet(Silent, Watcher):
    """Tells nobody."""


def tune(plan: Plan, watcher: Watcher | None = None, store: Store | None = None) -> Outcome:
    """Adapt a base and keep the result as a model.

    Raises:
        RungError: for anything the user can mend, in one line.
        Interrupted: after Ctrl-C or SIGTERM; `.args[0]` is the run to resume.
    """
    watcher, store = watcher or Quiet(), store or Store.open()
    device = estimate.device(plan.run.device)
    plan.run.device, plan.run.dtype = device, estimate.dtype(plan.run.dtype, device)
    store.models.check(plan.name, plan.run.parent)
    prepared = prepare(plan, watcher.stage)
    data = data_record(prepared.dataset)
    run = store.runs.create(
        plan.name, plan.method.name, objective=plan.run.objective, config=plan.settings(),
        parent=plan.run.parent, base=prepared.base, data=data,
    )  # fmt: skip
    folder = home.folder("runs") / run.id
    return _make(plan, prepared, run, folder, watcher, store)


def resume(run_id: str, watcher: Watcher | None = None, store: Store | None = None) -> Outcome:
    """Go on with a run that was interrupted or killed.

    Raises:
        RunNotFound: naming the nearest. ConfigError: for a run that is still going or has ended.
        DataError: when the data is no longer what the run began with.
    """
    watcher, store = watcher or Quiet(), store or Store.open()
    run = store.runs.get(run_id)
    if run.status == "succeeded":
        raise ConfigError(f"run {run.id} has finished: its model is '{run.model}'")
    if run.status == "running":
        raise ConfigError(f"run {run.id} is still running in process {run.pid} on {run.host}")
    plan = Plan.of(run.model, run.config)
    prepared = prepare(plan, watcher.stage)
    if data_record(prepared.dataset).digest != run.data:
        raise DataError(f"the data of run {run.id} has changed since it began: start a new run")
    store.runs.update(run.id, status="running")
    return _make(plan, prepared, run, home.folder("runs") / run.id, watcher, store)


def _make(
    plan: Plan, prepared: Prepared, run: RunRecord, folder: Path, watcher: Watcher, store: Store
) -> Outcome:
    """Let the method find its adapter, or train it; then measure and keep the result."""
    folder.mkdir(parents=True, exist_ok=True)
    with _stop_signal() as stopping:
        try:
            make = _train if plan.method.trained else _fit
            adapter, state, metrics = make(plan, prepared, run, folder, watcher, store, stopping)
        except Interrupted:
            store.runs.update(run.id, status="interrupted")
            raise Interrupted(run.id) from None
        except Exception as fault:
            store.runs.update(run.id, status="failed", error=str(fault))
            raise
    return keep(plan, prepared, adapter, state, metrics, run.id, store)


Made = tuple[Adapter, State, dict[str, Any]]


def _fit(
    plan: Plan, prepared: Prepared, run: RunRecord, folder: Path, watcher: Watcher, store: Store,
    stopping: Callable[[], bool],
) -> Made:  # fmt: skip
    """An adapter that the method finds without the training loop."""
    watcher.stage(f"fitting {plan.method.name}")
    splits = prepared.splits
    study = Study(
        prepared.bank, prepared.template, detect(splits.train), list(splits.train),
        list(splits.validation), plan.train.seed, folder, watcher.note, stopping,
    )  # fmt: skip
    began = time.perf_counter()
    fitted = plan.method.fit(study, plan.config)
    state = State(seconds=time.perf_counter() - began, finished=True)
    return fitted.adapter, state, fitted.metrics


def _train(
    plan: Plan, prepared: Prepared, run: RunRecord, folder: Path, watcher: Watcher, store: Store,
    stopping: Callable[[], bool],
) -> Made:  # fmt: skip
    """An adapter by gradients, its weights the best on validation."""
    bank, objective = prepared.bank, objectives.get(plan.run.objective)
    adapter = adapter_of(plan, prepared)
    guess = estimate.of(
        bank, adapter.size, prepared.rows["train"], objective, plan.train.epochs,
        plan.train.batch_size, plan.train.max_tokens, _resident_bytes(),
    )  # fmt: skip
    if plan.train.max_tokens is None:
        # Kept for the resumed run: another split into micro-batches would round differently.
        plan.train.max_tokens = guess.max_tokens
        store.runs.update(run.id, config=plan.settings())
    watcher.prepared(prepared, guess, adapter)
    order = Order(len(prepared.rows["train"]), plan.train.batch_size, plan.train.seed)
    work = Work(
        bank, adapter, bank.add(adapter), objective, prepared.rows["train"],
        prepared.rows["validation"], plan.train, plan.train.max_tokens, order, folder,
        _Beating(watcher, store, run.id), stopping,
    )  # fmt: skip
    state = train(work)
    watcher.stage("measuring the result")
    return adapter, state, losses(prepared, work, state)


@dataclass
class _Beating:
    """Passes everything on, and tells the store now and then that the run is alive."""

    watcher: Watcher
    store: Store
    run: str
    at: float = field(default_factory=time.monotonic)

    def begin(self, steps: int, at: int) -> None:
        self.watcher.begin(steps, at)

    def step(self, entry: dict[str, Any]) -> None:
        self.watcher.step(entry)
        if time.monotonic() - self.at > 10:
            self.at = time.monotonic()
            self.store.runs.update(self.run, metrics={k: entry[k] for k in ("step", "loss")})

    def validated(self, entry: dict[str, Any]) -> None:
        self.watcher.validated(entry)

    def note(self, text: str) -> None:
        self.watcher.note(text)


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a flag, so that no step is left half-done.

    A second one acts at once. Outside the main thread signals are not ours to take.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def stop(*_: Any) -> None:
        asked.set()
        for kind, handler in before.items():
            signal.signal(kind, handler)

    for kind in kinds:
        signal.signal(kind, stop)
    try:
        yield asked.is_set
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _resident_bytes() -> int:
    import psutil

    return psutil.Process().memory_info().rss
