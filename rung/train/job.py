"""One tuning from configuration to model, fresh or resumed."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rung import home, objectives
from rung.errors import ConfigError, DataError, Interrupted, ModelNotFound, OutOfTime
from rung.evals.tasks import detect
from rung.forward.adapter import Adapter
from rung.methods.base import Study
from rung.store import Store
from rung.store.records import RunRecord
from rung.train import estimate
from rung.train.checkpoint import State
from rung.train.loop import Reporter, Silent, Work, train
from rung.train.order import Order
from rung.train.plan import Plan
from rung.train.prepare import Opened, Prepared, adapter_of, prepare
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


def tune(
    plan: Plan,
    watcher: Watcher | None = None,
    store: Store | None = None,
    *,
    opened: Opened | None = None,
    test: bool = True,
    replace: bool = False,
) -> Outcome:
    """Adapt a base and keep the result as a model.

    Args:
        opened: data and base that are in memory already.
        test: look at the test rows, this once.
        replace: take the place of a model of that name.

    Raises:
        RungError: for anything the user can mend, in one line.
        Interrupted: after Ctrl-C or SIGTERM; `.args[0]` is the run to resume.
    """
    watcher, store = watcher or Quiet(), store or Store.open()
    _settle(plan)
    store.models.check(plan.name, plan.run.parent)
    if not replace:
        _refuse_to_replace(plan.name, store)
    prepared = prepare(plan, watcher.stage, opened)
    made = _make(plan, prepared, _begin(plan, prepared, store), watcher, store, test)
    return keep(plan, prepared, made.adapter, made.state, made.metrics, made.run, store)


def attempt(
    plan: Plan,
    opened: Opened,
    judge: Judge,
    watcher: Watcher | None = None,
    store: Store | None = None,
    run: str | None = None,
) -> Made:
    """Adapt a base and keep the result only if it is judged worth it. The test rows are not touched.

    Args:
        judge: told what was made; what it found is added to the metrics, None drops the adapter.
        run: an interrupted run to go on with.

    Returns:
        what was made; `.outcome` is None where it was dropped.
    """
    watcher, store = watcher or Quiet(), store or Store.open()
    _settle(plan)
    store.models.check(plan.name, plan.run.parent)
    record = _again(run, store) if run else None
    if record is not None:
        plan = Plan.of(record.model, record.config)
    prepared = prepare(plan, watcher.stage, opened)
    made = _make(plan, prepared, record or _begin(plan, prepared, store), watcher, store, False)
    with _running(made.run, store):
        found = judge(made)
        if found is None:
            cost = {"seconds": made.state.seconds, "tokens": made.state.tokens}
            store.runs.update(made.run, status="succeeded", metrics=made.metrics, cost=cost)
            return made
        made.metrics |= found
        made.outcome = keep(plan, prepared, made.adapter, made.state, made.metrics, made.run, store)
    return made


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
    made = _make(plan, prepared, run, watcher, store, True)
    return keep(plan, prepared, made.adapter, made.state, made.metrics, made.run, store)


def _settle(plan: Plan) -> None:
    """Say device and precision where the plan leaves them to the machine."""
    device = estimate.device(plan.run.device)
    plan.run.device, plan.run.dtype = device, estimate.dtype(plan.run.dtype, device)


def _refuse_to_replace(name: str, store: Store) -> None:
    try:
        record = store.models.get(name)
    except ModelNotFound:
        return
    raise ConfigError(
        f"there is a model '{name}' already, made by {record.method} on {record.created[:10]}: "
        "say --replace, or choose another name"
    )


def _begin(plan: Plan, prepared: Prepared, store: Store) -> RunRecord:
    return store.runs.create(
        plan.name, plan.method.name, objective=plan.run.objective, config=plan.settings(),
        parent=plan.run.parent, base=prepared.base, data=data_record(prepared.dataset),
    )  # fmt: skip


def _again(run: str, store: Store) -> RunRecord | None:
    """An interrupted run, taken up by this process; None for one that ended otherwise."""
    record = store.runs.get(run)
    if record.status != "interrupted":
        return None
    return store.runs.update(run, status="running")


@dataclass
class Made:
    """An adapter with what is known of how it came about. `outcome` is set once it was kept."""

    adapter: Adapter
    state: State
    metrics: dict[str, Any]
    run: str = ""
    outcome: Outcome | None = None


Judge = Callable[[Made], dict[str, Any] | None]


def _make(
    plan: Plan, prepared: Prepared, run: RunRecord, watcher: Watcher, store: Store, test: bool
) -> Made:
    """Let the method find its adapter, or train it, and measure it on the rows it may see."""
    folder = home.folder("runs") / run.id
    folder.mkdir(parents=True, exist_ok=True)
    beating = _Beating(watcher, store, run.id)
    with _stop_signal() as asked, _running(run.id, store):
        stopping = _either(asked, beating)
        if plan.method.trained:
            made = _train(plan, prepared, run, folder, beating, stopping, test)
        else:
            made = _fit(plan, prepared, folder, beating, stopping)
    made.run = run.id
    return made


@contextmanager
def _running(run: str, store: Store) -> Iterator[None]:
    """Note in the store how the work on a run ended, unless it was cancelled there."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        if store.runs.beat(run) != "cancelled":
            store.runs.update(run, status="interrupted")
        raise Interrupted(run) from None
    except Exception as fault:
        store.runs.update(run, status="failed", error=str(fault))
        raise


def _either(asked: Callable[[], bool], beating: _Beating) -> Callable[[], bool]:
    """Whether to stop: the user asked here, or cancelled the run in the store."""
    return lambda: asked() or beating.cancelled()


def _fit(
    plan: Plan, prepared: Prepared, folder: Path, beating: _Beating, stopping: Callable[[], bool]
) -> Made:
    """An adapter that the method finds without the training loop."""
    beating.watcher.stage(f"fitting {plan.method.name}")
    splits, limit = prepared.splits, plan.train.seconds
    until = math.inf if limit is None else time.perf_counter() + limit

    def over() -> bool:
        if time.perf_counter() > until:
            raise OutOfTime(f"{plan.method.name} was not done within {limit:.0f} s")
        return stopping()

    study = Study(
        prepared.bank, prepared.template, detect(splits.train), list(splits.train),
        list(splits.validation), plan.train.seed, folder, beating.note, over,
    )  # fmt: skip
    began = time.perf_counter()
    fitted = plan.method.fit(study, plan.config)
    state = State(seconds=time.perf_counter() - began, finished=True)
    return Made(fitted.adapter, state, fitted.metrics)


def _train(
    plan: Plan, prepared: Prepared, run: RunRecord, folder: Path, beating: _Beating,
    stopping: Callable[[], bool], test: bool,
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
        beating.store.runs.update(run.id, config=plan.settings())
    beating.watcher.prepared(prepared, guess, adapter)
    order = Order(len(prepared.rows["train"]), plan.train.batch_size, plan.train.seed)
    work = Work(
        bank, adapter, bank.add(adapter), objective, prepared.rows["train"],
        prepared.rows["validation"], plan.train, plan.train.max_tokens, order, folder,
        beating, stopping,
    )  # fmt: skip
    try:
        state = train(work)
        if test:
            beating.watcher.stage("measuring the result")
        return Made(adapter, state, losses(prepared, work, state, test))
    finally:
        bank.remove(work.slot)  # a bank that is shared must not keep what it no longer needs


BEAT_SECONDS = 10.0


@dataclass
class _Beating:
    """Passes everything on, tells the store now and then that the run is alive, and learns from it
    whether the run was cancelled."""

    watcher: Watcher
    store: Store
    run: str
    at: float = field(default_factory=time.monotonic)
    gone: bool = False

    def begin(self, steps: int, at: int) -> None:
        self.watcher.begin(steps, at)

    def step(self, entry: dict[str, Any]) -> None:
        self.watcher.step(entry)
        if self.due():
            self.beat()
            self.store.runs.update(self.run, metrics={k: entry[k] for k in ("step", "loss")})

    def validated(self, entry: dict[str, Any]) -> None:
        self.watcher.validated(entry)

    def note(self, text: str) -> None:
        self.watcher.note(text)

    def due(self) -> bool:
        return time.monotonic() - self.at > BEAT_SECONDS

    def beat(self) -> None:
        self.at = time.monotonic()
        self.gone = self.store.runs.beat(self.run) == "cancelled"

    def cancelled(self) -> bool:
        if self.due():
            self.beat()
        return self.gone


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
