"""The training loop, one for every method, objective and device.

Order depends on (seed, epoch) alone and checkpoints hold everything else, so a run that is killed and
resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from rung import launch as launches
from rung.bases.mapped import page_out
from rung.errors import DataError, Interrupted, RungError, StoreError
from rung.forward.adapter import Adapter
from rung.forward.features import Boundary
from rung.forward.token_rows import lacking_rows
from rung.memory import keep_freed, returning_freed
from rung.objectives import Row, RowSource
from rung.train import checkpoint
from rung.train.checkpoint import State
from rung.train.frozen import Frozen
from rung.train.gradient import Gradients, Passes, evaluate
from rung.train.observers import Observer, Step, Stop, Validation
from rung.train.optim import Optimizer
from rung.train.plan import Plan
from rung.train.prepare import Prepared
from rung.train.sources import digest

MIN_FROZEN_SHARE = 0.25  # of the layers; below that, keeping states gains less than it takes
NO_LIMIT = 1 << 30  # tokens of a micro-batch


class Trainer:
    """One training in progress, as a context: leaving it takes the adapter out of the bank.

    Args:
        prepared: with the validation rows. plan: its `train` says how; `max_tokens` None is no limit.
        adapter: trained in place. source: of the training rows.
        folder: of the run, for checkpoints; None keeps nothing.
        stopping: asked between micro-batches.

    Attributes:
        slot: the adapter's in the bank. bare: that of the base, which where tokens were added reads
            those that it has no rows for as the mean of its rows.
        stopped: set when an observer ended the training.
    """

    def __init__(
        self,
        prepared: Prepared,
        plan: Plan,
        adapter: Adapter,
        source: RowSource,
        observers: Observer | None = None,
        *,
        folder: Path | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ):
        self.bank, self.validation = prepared.bank, prepared.rows.get("validation", [])
        self.knobs, self.adapter, self.source = plan.train, adapter, source
        self.objective, self.launch = plan.objective, launches.chosen(plan.run.launch)
        self.observers, self.folder, self.stopping = observers or Observer(), folder, stopping
        self.slot, self.bare = self.bank.add(adapter), -1
        if lacking := lacking_rows(self.bank, adapter.tokens):
            self.bare = self.bank.add(Adapter(tokens=lacking))
        self.parameters = adapter.trainable().parameters()
        self.steps = source.steps(self.knobs.epochs, self.knobs.steps)
        rates = plan.method.rates(plan.config, self.parameters)
        self.optimizer = Optimizer(self.parameters, self.knobs, self.steps, rates)
        self.max_tokens = self.knobs.max_tokens or NO_LIMIT
        self.passes = Passes(bank=self.bank, objective=self.objective, slot=self.slot)
        # Of several processes each would stop between other micro-batches: they agree between steps.
        self.within = stopping if self.launch.size == 1 else lambda: False
        self.gradients = Gradients(
            self.passes, self.parameters, self.max_tokens, self.observers.note, self.within, self.launch
        )
        self.state = State(scale=self.gradients.scale, rows=digest(source))
        self.frozen: Frozen | None = None
        self.best: dict[str, Tensor] = {}
        self.stopped: Stop | None = None
        self._saved_at = time.monotonic()
        self._saved_step = -1

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.bank.recompute(False)
        for slot in (self.slot, self.bare):
            self.bank.remove(slot)  # a bank that is shared must not keep what it no longer needs

    def run(self) -> State:
        """Train to the end and leave the best weights in the adapter.

        Raises:
            Interrupted: when asked to stop, after writing a checkpoint.
            TrainingStopped: when it cannot go on, after keeping the last good weights.
        """
        wanted = self.knobs.recompute == "on"
        self.bank.recompute(wanted)
        if wanted and not self.bank.recomputes:
            self.observers.note("activations are kept: this base computes rows padded, a few at a time")
        with returning_freed() if self.bank.recomputes else keep_freed():
            return self._run()

    def _run(self) -> State:
        self._resume()
        self._start_above_what_is_frozen()
        self._validate_at_start()
        self._page_out_what_was_copied()
        self.observers.begin(self.steps, self.state.step)
        if (self.knobs.steps or 0) > self.steps:
            self.observers.note(
                f"--epochs {self.knobs.epochs:g} ends at step {self.steps} of {self.knobs.steps}: "
                "raise it for more"
            )
        self._validate_if_interrupted()
        while self.state.step < self.steps and not self._ended():
            try:
                event = None if self._asked_to_stop() else self._step()
                if event is not None:
                    self.observers.step(event)
                    self._validate_if_due()
            except (RungError, Interrupted):  # as while answers are drawn, or by what scores them
                with suppress(StoreError):  # a full disk must not hide the cause
                    self._save()  # of the last step that was whole
                raise
            if event is None:
                self._save()
                self.launch.barrier()
                raise Interrupted
            self._save_if_due()
        return self._finish()

    def _page_out_what_was_copied(self) -> None:
        """Hand back the memory of base weights that are trained as copies; who still reads them, such
        as a reference model, has them from the file again."""
        if self.launch.sharded:
            return  # parts of them are gathered where they are read
        own = dict(self.bank.model.named_parameters())
        for name in self.adapter.weights.keys() & own.keys():
            page_out(own[name])

    def _asked_to_stop(self) -> bool:
        return self.launch.size > 1 and self.launch.agree(self.stopping())

    def _start_above_what_is_frozen(self) -> None:
        """Compute once what enters the first layer that changes, where that saves a fair part: of the
        rows that are measured now, of the others ahead of their steps.

        Raises:
            Interrupted: when asked to stop; nothing was trained yet that a checkpoint could hold.
        """
        layer = self.bank.frozen_below(self.adapter)
        too_low = layer < MIN_FROZEN_SHARE * self.bank.layers.count
        if too_low or not self.source.fixed or self.state.step >= self.steps:
            return
        if not Boundary.possible(self.bank, layer):
            return
        if self.launch.sharded:
            return  # one process would wait for the states that another one keeps on disk
        began = time.perf_counter()
        boundary = Boundary(self.bank, layer)
        frozen = Frozen(
            boundary, self.source, self.steps, self.observers.note, self.within, self._seconds_left
        )
        if frozen.hold(self.validation):
            self.frozen = frozen
            self.gradients.start_from(boundary)
        self.state.seconds += time.perf_counter() - began

    def _seconds_left(self) -> float:
        """Seconds of `--seconds` that are left, or infinity."""
        limit = self.knobs.seconds
        return math.inf if limit is None else limit - self.state.seconds

    def _step(self) -> Step | None:
        began, step = time.perf_counter(), self.state.step
        if self.frozen is not None:
            try:
                self.frozen.reach(step)
            except Interrupted:
                return None
        gradient = self.gradients.of(self._rows(step), step)
        if gradient is None:
            return None
        norm = self.optimizer.step(step, gradient.tensors, gradient.norm)
        seconds = time.perf_counter() - began
        self.state.step += 1
        self.state.tokens += gradient.tokens
        self.state.seconds += seconds
        self.state.scale = self.gradients.scale
        return Step(
            step=step + 1,
            metrics=gradient.metrics,
            lr=self.optimizer.rate(step),
            gradient_norm=norm,
            tokens=gradient.tokens,
            seconds=seconds,
        )

    def _rows(self, step: int) -> list[Row]:
        """The rows of a step; where they are drawn, one process draws for all."""
        if self.source.fixed:
            return self.source.rows(step)
        return self.launch.same(lambda: self.source.rows(step))

    # --- validation ---------------------------------------------------------------------------

    def _validate_at_start(self) -> None:
        """The bare base's figure, to show what training gains; an adapter may not start there."""
        if self.state.step == 0 and self.validation and self.state.first_value is None:
            self.state.first_value = self._validate(self.bare).get(self.objective.best[0])

    def evaluate(self, rows: list[Row], slot: int) -> dict[str, float]:
        """The objective's metrics over rows, of the adapter's slot or of the base's (`bare`)."""
        return self._evaluate(self.passes, rows, slot)

    def _validate(self, slot: int) -> dict[str, float]:
        """The same over the validation rows, whose states may be kept."""
        return self._evaluate(self.gradients.passes, self.validation, slot)

    def _evaluate(self, passes: Passes, rows: list[Row], slot: int) -> dict[str, float]:
        if self.source.fixed:
            measured = self.source.measured(rows, slot)
        else:
            measured = self.launch.same(lambda: self.source.measured(rows, slot))
        return evaluate(replace(passes, slot=slot), measured, self.max_tokens, self.launch)

    def _validate_if_due(self) -> None:
        step, state = self.state.step, self.state
        every = self.knobs.eval_every or max(1, self.source.per_epoch // 2)
        last = step == self.steps or self._over
        if not self.validation or (step % every and not last):
            return
        began, best = time.perf_counter(), self.objective.best[0]
        metrics = self._validate(self.slot)
        if best not in metrics:  # nothing could be scored, which the source has told
            state.seconds += time.perf_counter() - began
            return
        event = Validation(step=step, metrics=metrics, best=best, tokens_seen=state.tokens)
        if self.objective.better(event.value, state.best_value):
            state.best_value, state.best_step, state.stale = event.value, step, 0
            self.best = {n: p.detach().clone() for n, p in self.parameters.items()}
        else:
            state.stale += 1
        state.history.append(event.entry())
        state.seconds += time.perf_counter() - began
        self.stopped = self.launch.same(lambda: self.observers.validated(event))

    def _validate_if_interrupted(self) -> None:
        """Validate the step of a checkpoint whose validation did not come to its end."""
        last = self.state.history[-1]["step"] if self.state.history else 0
        if last < self.state.step:
            self._validate_if_due()

    def _ended(self) -> bool:
        """Whether training ends before its last step."""
        return self.stopped is not None or self._stale() or self._out_of_time()

    @property
    def _over(self) -> bool:
        """Whether the time that the training may take is over."""
        limit = self.knobs.seconds
        return limit is not None and self.launch.agree(self.state.seconds >= limit)

    def _out_of_time(self) -> bool:
        if not self._over or self.state.step == 0:
            return False
        self.observers.note(f"ended at step {self.state.step} of {self.steps}: its time was over")
        return True

    def _stale(self) -> bool:
        patience = self.knobs.patience
        if not patience or self.state.stale < patience:
            return False
        self.observers.note(
            f"stopped early at step {self.state.step}: no gain on validation since step "
            f"{self.state.best_step}"
        )
        return True

    # --- checkpoints --------------------------------------------------------------------------

    def _resume(self) -> None:
        if self.folder is None:
            return
        found, damaged = checkpoint.newest(self.folder / "checkpoints")
        for line in damaged:
            self.observers.note(f"{line}: going on from the one before")
        if found is None:
            return
        self._refuse_other_rows(found.state)
        found.state.rows = self.state.rows
        self.state, self.best = found.state, found.best
        self.gradients.scale = self.state.scale
        if self.state.best_step == self.state.step and self.state.best_value is not None:
            self.best = found.adapter  # written once, since the two are the same weights
        self._put(found.adapter)
        self.best = {n: t.to(self.bank.device).clone() for n, t in self.best.items()}
        self.optimizer.restore(found.optimizer)
        self.source.restore(found.source, self.state.step)
        self._saved_step = self.state.step

    def _refuse_other_rows(self, known: State) -> None:
        """Refuse to go on where the same data no longer gives the rows that a run began with.

        Raises:
            DataError: in one line.
        """
        if known.rows:
            same = known.rows == self.state.rows
        else:  # of an older version, which noted the tokens that were computed, and no digest
            done = range(known.step if self.source.fixed else 0)
            same = not done or known.tokens == sum(r.tokens for s in done for r in self.source.rows(s))
        if not same:
            raise DataError(
                "its rows are split or rendered in another way than when the run began, by another "
                "version of Rung or a changed template: start a new run"
            )

    def _put(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[name])

    def _save_if_due(self) -> None:
        knobs = self.knobs
        if knobs.save_every:
            due = self.state.step % knobs.save_every == 0
        else:
            due = time.monotonic() - self._saved_at > knobs.save_seconds
        if due:
            self._save()

    def _save(self) -> None:
        if self.folder is None or not self.launch.main or self.state.step == self._saved_step:
            return
        same = self.state.best_step == self.state.step
        checkpoint.save(
            self.folder / "checkpoints",
            self.state,
            self.parameters,
            self.optimizer.state(),
            {} if same else self.best,
            self.source.state(self.state.step),
        )
        self._saved_at, self._saved_step = time.monotonic(), self.state.step

    def _finish(self) -> State:
        self.state.finished = True
        self._saved_step = -1
        self._save()
        if self.best:
            self._put(self.best)
        self.adapter.trainable(False)
        return self.state
