"""One tuning from configuration to model, fresh or resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rung import home, launch, trackers
from rung.errors import (
    ConfigError,
    Interrupted,
    MethodMisfit,
    OutOfTime,
    PeerLost,
    StoreError,
)
from rung.evals.tasks import detect
from rung.forward import feature_cache
from rung.launch import Launch
from rung.methods.base import Fitted, Study
from rung.objectives import Setting
from rung.store import Store
from rung.store.records import RunRecord, Status
from rung.trackers import TrackedRun
from rung.train import claims, estimate, keeping
from rung.train.checkpoint import State
from rung.train.figures import figures
from rung.train.loop import Trainer
from rung.train.observers import Made, Observer, Observers, Outcome, Started
from rung.train.plan import Plan
from rung.train.prepare import Prepared, adapter_of, prepare
from rung.train.reference import with_reference
from rung.train.run_log import Heartbeat, RunLog, Tracked
from rung.train.sources import Shuffled
from rung.types import Task


def tune(
    plan: Plan,
    observer: Observer | None = None,
    store: Store | None = None,
    *,
    opened: Prepared | None = None,
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
    store = store or Store.open()
    store.models.check(plan.name, plan.run.parent)
    if not replace:
        claims.refuse_to_replace(plan.name, store)
    return _kept(make(plan, observer, store, opened=opened, test=test), store, replace)


def resume(
    run_id: str,
    observer: Observer | None = None,
    store: Store | None = None,
    launched: str | None = None,
    *,
    replace: bool = False,
    force: bool = False,
) -> Outcome:
    """Go on with a run that was interrupted or killed, and keep the result as a model.

    Args:
        launched: the launch that it goes on with; the one that it began with by default.
        replace: take the place of a model of that name that was made since.
        force: go on though the run says that another host is at it, whose process is known to be gone.

    Raises:
        RunNotFound: naming the nearest. ConfigError: for a run that is still going or has ended.
        DataError: when the data is no longer what the run began with.
    """
    store = store or Store.open()
    run = store.runs.get(run_id)
    if launch.here() is None:  # of several processes one may have taken it up already
        claims.refuse_ended(run, force)
    if launched is not None:
        run = dataclasses.replace(run, config={**run.config, "launch": launched, "processes": None})
    plan = Plan.of(run.model, run.config)
    together = launch.chosen(plan.run.launch)
    together.join(estimate.device(plan.run.device))
    # Before one of them takes it up, and alike in all of them.
    together.same(lambda: claims.refuse_ended(store.runs.get(run_id), force))
    if not replace:
        together.same(lambda: claims.refuse_newer(run, store))
    return _kept(make(plan, observer, store, run=run, test=True), store, replace)


def make(
    plan: Plan,
    observer: Observer | None = None,
    store: Store | None = None,
    *,
    opened: Prepared | None = None,
    run: RunRecord | None = None,
    test: bool = False,
    fitted: Fitted | None = None,
    task: Task | None = None,
) -> Made:
    """Adapt a base, and leave it to the caller to `keep` or to `drop` what was made.

    What the caller does in between belongs `under_way`, so that the store knows how it ended.

    Args:
        opened: data and base that are in memory already.
        run: one that was interrupted, to go on with; its settings are the plan's.
        test: look at the test rows, this once.
        fitted: what the method found already, for one that needs no base.
        task: what a method that chooses among candidates is to be good at; as the rows are detected
            where nobody says.

    Raises:
        DataError: when the data is no longer what `run` began with. Else as `tune`.
    """
    observer, store = observer or Observer(), store or Store.open()
    if run is not None:
        plan = Plan.of(run.model, run.config)
    together = launch.chosen(plan.run.launch)
    observer = observer if together.main else Observer()  # only one process tells and writes
    _settle(plan, together)
    chosen = [trackers.make(name) for name in plan.run.track]  # what cannot work is told at once
    prepared = prepare(plan, observer.stage, opened)
    run = together.same(lambda: _begun(plan, prepared, store, run))
    if together.size > 1:
        claims.compare(run, prepared)
    folder = home.folder("runs") / run.id
    folder.mkdir(parents=True, exist_ok=True)
    heartbeat = Heartbeat(store, run.id)
    about = TrackedRun(name=plan.name, id=run.id, folder=folder, settings=plan.settings())
    tracked = [Tracked(tracker, about) for tracker in chosen]
    observers = Observers.of(RunLog(folder / "log.jsonl"), heartbeat, observer, *tracked)
    if not together.main:
        observers = Observers()
    with stop_signal() as asked, under_way(run.id, store, observers, together.main):

        def stopping() -> bool:
            return asked() or (together.main and heartbeat.cancelled())

        observers.prepared(prepared)
        with feature_cache.spared() as spared:
            if plan.method.trained:
                made = _train(plan, prepared, run.id, folder, observers, stopping, test, store)
            else:
                made = _fit(plan, prepared, run.id, folder, observers, stopping, fitted, task)
        made.spared, made.asked = spared.seconds, asked()
        return made


def _kept(made: Made, store: Store, replace: bool) -> Outcome:
    together = launch.chosen(made.plan.run.launch)
    with under_way(made.run, store, made.observers, together.main):
        if not replace:
            together.same(lambda: claims.refuse_newer(store.runs.get(made.run), store))
        return keep(made, store)


def keep(made: Made, store: Store, metrics: dict[str, Any] | None = None) -> Outcome:
    """Write what was made as a model and record it, with what the caller has measured of it."""
    made.metrics |= metrics or {}
    together = launch.chosen(made.plan.run.launch)
    model, cost = together.same(lambda: keeping.keep(made, store))
    outcome = Outcome(**vars(made), model=model, cost=cost)
    made.observers.finished(outcome)
    return outcome


def drop(made: Made, store: Store, why: str | None = None) -> None:
    """End a run whose adapter nobody wants; `why` where it did not come to its end."""
    cost = {"seconds": made.state.seconds, "tokens": made.state.tokens}
    status: Status = "cancelled" if why else "succeeded"
    store.runs.update(made.run, status=status, metrics=made.metrics, cost=cost, error=why)
    if why is None:
        keeping.forget_checkpoints(made.run)
    made.observers.finished(made)


@contextmanager
def under_way(run: str, store: Store, observers: Observer, main: bool = True) -> Iterator[None]:
    """Note in the store how the work on a run ended, unless it was cancelled there, and tell of it.

    A run of which a setting is refused before its first step leaves no record.

    Args:
        main: whether this process writes; of several that train together, one does.
    """
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stopped:
        with contextlib.suppress(StoreError):  # a busy store or a full disk must not hide the cause
            if main and store.runs.beat(run) != "cancelled":
                store.runs.update(run, status="interrupted")
        observers.failed(stopped)
        raise (PeerLost if isinstance(stopped, PeerLost) else Interrupted)(run) from None
    except Exception as fault:
        if not main:
            raise
        refused = isinstance(fault, (ConfigError, MethodMisfit))
        with contextlib.suppress(StoreError):
            if refused and not (home.folder("runs") / run / "log.jsonl").exists():
                store.runs.forget(run)  # a setting was refused before the first step: nothing was run
            else:
                config = store.runs.get(run).config
                if isinstance(fault, OutOfTime):  # as in a climb; who resumes it has time
                    config = {k: v for k, v in config.items() if k != "seconds"}
                store.runs.update(run, status="failed", error=str(fault), config=config)
        observers.failed(fault)
        raise


def _settle(plan: Plan, together: Launch) -> None:
    """Say device and precision where the plan leaves them to the machine, and meet the others there."""
    device = estimate.device(plan.run.device)
    together.join(device)
    plan.run.device = device
    plan.run.dtype = together.same(lambda: estimate.dtype(plan.run.dtype, device))


def _begin(plan: Plan, prepared: Prepared, store: Store) -> RunRecord:
    return store.runs.create(
        plan.name, plan.method.name, objective=plan.run.objective, config=plan.settings(),
        parent=plan.run.parent, base=prepared.base, data=keeping.data_record(prepared.dataset),
    )  # fmt: skip


def _begun(plan: Plan, prepared: Prepared, store: Store, run: RunRecord | None) -> RunRecord:
    return _begin(plan, prepared, store) if run is None else claims.take_up(run, prepared, store)


def _fit(
    plan: Plan, prepared: Prepared, run: str, folder: Path, observers: Observers,
    stopping: Callable[[], bool], fitted: Fitted | None = None, task: Task | None = None,
) -> Made:  # fmt: skip
    """An adapter that the method finds without the training loop."""
    observers.stage(f"fitting {plan.method.name}")
    splits, limit = prepared.splits, plan.train.seconds
    until = math.inf if limit is None else time.perf_counter() + limit

    def over() -> bool:
        if time.perf_counter() > until:
            raise OutOfTime(f"{plan.method.name} was not done within {limit:.0f} s")
        return stopping()

    study = Study(
        prepared.bank, prepared.template, task or detect(splits.train), list(splits.train),
        list(splits.validation), plan.train.seed, folder, observers.note, over, plan.train,
    )  # fmt: skip
    began = time.perf_counter()
    fitted = fitted or plan.method.fit(study, plan.config)
    state = State(seconds=time.perf_counter() - began, finished=True)
    return Made(
        plan=plan, prepared=prepared, adapter=fitted.adapter, state=state, metrics=fitted.metrics,
        told=fitted.told, run=run, observers=observers,
    )  # fmt: skip


def _train(
    plan: Plan, prepared: Prepared, run: str, folder: Path, observers: Observers,
    stopping: Callable[[], bool], test: bool, store: Store,
) -> Made:  # fmt: skip
    """An adapter by gradients, its weights the best on validation."""
    rows, knobs = prepared.rows["train"], plan.train
    adapter = adapter_of(plan, prepared)
    expected = [plan.objective.expected(row) for row in rows]
    together = launch.chosen(plan.run.launch)
    guess = together.same(
        lambda: estimate.of(
            prepared.bank, adapter.size, expected, knobs, _resident_bytes(), together.neighbours
        )
    )
    if knobs.max_tokens is None or knobs.recompute == "auto":
        # Kept for the resumed run: another split into micro-batches would round differently.
        knobs.max_tokens = guess.max_tokens
        if knobs.recompute == "auto":
            knobs.recompute = "on" if guess.recomputes else "off"
        if together.main:
            store.runs.update(run, config=plan.settings())
    parts = ("train", "validation", "test") if test else ("train", "validation")
    alone = feature_cache.unused() if together.sharded else contextlib.nullcontext()
    with alone:  # nobody may find on disk what the others compute together
        prepared = with_reference(prepared, plan, adapter, parts, observers, stopping)
    source = plan.objective.source(
        Setting(
            bank=prepared.bank, template=prepared.template, adapter=adapter,
            shuffled=Shuffled(prepared.rows["train"], knobs.batch_size, knobs.seed),
            seed=knobs.seed, note=observers.note, stopping=stopping,
        )
    )  # fmt: skip
    observers.started(
        Started(
            run=run, plan=plan, prepared=prepared, adapter=adapter, estimate=guess,
            per_epoch=source.per_epoch,
        )
    )  # fmt: skip
    with (
        closing(source),
        Trainer(
            prepared, plan, adapter, source, observers, folder=folder, stopping=stopping
        ) as trainer,
    ):
        state = trainer.run()
        if test:
            observers.stage("measuring the result")
        metrics = figures(trainer, prepared, test)
    adapter = adapter.kept()
    adapter.conversation = prepared.agent(plan.objective) or adapter.conversation
    return Made(
        plan=plan, prepared=prepared, adapter=adapter, state=state, metrics=metrics, run=run,
        observers=observers, stopped=trainer.stopped,
    )  # fmt: skip


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
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
