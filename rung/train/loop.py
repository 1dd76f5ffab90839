"""The training loop, one for every method, objective and device.

Order depends on (seed, epoch) alone and checkpoints hold everything else, so a run that is killed and
resumed ends with the weights of one that was not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from rung.errors import Interrupted, TrainingStopped
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.forward.features import Boundary
from rung.forward.memory import keep_freed
from rung.objectives import Objective
from rung.train import checkpoint
from rung.train.checkpoint import State
from rung.train.gradient import Gradients, evaluate
from rung.train.knobs import TrainKnobs
from rung.train.optim import Optimizer
from rung.train.order import Order
from rung.types import Rendered

LEAST_FROZEN = 0.25  # of the layers; below that, keeping states gains less than it takes


class Reporter(Protocol):
    """Told what happens; a progress bar, a job's events, or nothing."""

    def begin(self, steps: int, at: int) -> None: ...
    def step(self, entry: dict[str, Any]) -> None: ...
    def validated(self, entry: dict[str, Any]) -> None: ...
    def note(self, text: str) -> None: ...


class Silent:
    """Reports nothing."""

    def begin(self, steps: int, at: int) -> None: ...
    def step(self, entry: dict[str, Any]) -> None: ...
    def validated(self, entry: dict[str, Any]) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass
class Work:
    """What is to be trained.

    Attributes:
        adapter: resident in the bank at `slot`; trained in place.
        order: which rows make which step.
        folder: of the run, for checkpoints and log; None keeps nothing.
        stopping: asked between micro-batches.
    """

    bank: Bank
    adapter: Adapter
    slot: int
    objective: Objective
    train: list[Rendered]
    validation: list[Rendered]
    knobs: TrainKnobs
    max_tokens: int
    order: Order
    folder: Path | None = None
    reporter: Reporter = field(default_factory=Silent)
    stopping: Callable[[], bool] = lambda: False


class Trainer:
    """One training in progress."""

    def __init__(self, work: Work):
        self.work = work
        self.parameters = work.adapter.trainable().parameters()
        self.steps = work.order.steps(work.knobs.epochs, work.knobs.steps)
        self.optimizer = Optimizer(self.parameters, work.knobs, self.steps)
        self.gradients = Gradients(
            work.bank, work.objective, work.slot, self.parameters, work.max_tokens,
            work.reporter.note, work.stopping,
        )  # fmt: skip
        self.state = State(scale=self.gradients.scale)
        self.best: dict[str, Tensor] = {}
        self._saved_at = time.monotonic()
        self._saved_step = -1

    def run(self) -> State:
        """Train to the end and leave the best weights in the adapter.

        Raises:
            Interrupted: when asked to stop, after writing a checkpoint.
            TrainingStopped: when it cannot go on, after keeping the last good weights.
        """
        with keep_freed():
            return self._run()

    def _run(self) -> State:
        self._resume()
        self._start_above_what_is_frozen()
        self._validate_at_start()
        self.work.reporter.begin(self.steps, self.state.step)
        while self.state.step < self.steps and not self._stale() and not self._out_of_time():
            try:
                entry = self._step()
            except TrainingStopped:
                self._save()
                raise
            if entry is None:
                self._save()
                raise Interrupted
            self._log(entry)
            self._validate_if_due()
            self._save_if_due()
        return self._finish()

    def _start_above_what_is_frozen(self) -> None:
        """Compute once what enters the first layer that changes, where that saves a fair part.

        Raises:
            Interrupted: when asked to stop; nothing was trained yet that a checkpoint could hold.
        """
        work, bank = self.work, self.work.bank
        layer = bank.frozen_below(work.adapter)
        if layer < LEAST_FROZEN * bank.layers.count or self.state.step >= self.steps:
            return
        began = time.perf_counter()
        epoch = range(min(self.steps, work.order.per_epoch))
        used = sorted({i for step in epoch for i in work.order.batch(step)})
        rows = [*(work.train[i] for i in used), *work.validation]
        sequences = [s for row in rows for s in work.objective.sequences(row, work.slot)]
        self.gradients.boundary = Boundary.of(
            work.bank, layer, sequences, work.reporter.note, work.stopping
        )
        self.state.seconds += time.perf_counter() - began

    def _step(self) -> dict[str, Any] | None:
        began = time.perf_counter()
        rows = [self.work.train[i] for i in self.work.order.batch(self.state.step)]
        gradient = self.gradients.of(rows, self.state.step)
        if gradient is None:
            return None
        norm = self.optimizer.step(self.state.step, gradient.tensors, gradient.norm)
        seconds = time.perf_counter() - began
        entry = {
            "step": self.state.step + 1,
            "loss": gradient.loss,
            "accuracy": gradient.accuracy,
            "lr": self.optimizer.rate(self.state.step),
            "gradient_norm": norm,
            "tokens": gradient.tokens,
            "seconds": seconds,
        }
        self.state.step += 1
        self.state.tokens += gradient.tokens
        self.state.seconds += seconds
        self.state.scale = self.gradients.scale
        return entry

    # --- validation ---------------------------------------------------------------------------

    def _validate_at_start(self) -> None:
        """The bare base's loss, to show what training gains; an adapter may not start there."""
        if self.state.step == 0 and self.work.validation and self.state.first_loss is None:
            self.state.first_loss = self._evaluate(-1)["loss"]

    def _evaluate(self, slot: int) -> dict[str, float]:
        work = self.work
        return evaluate(
            work.bank, work.objective, slot, work.validation, work.max_tokens, self.gradients.boundary
        )

    def _validate_if_due(self) -> None:
        work, step = self.work, self.state.step
        every = work.knobs.eval_every or max(1, work.order.per_epoch // 2)
        last = step == self.steps or self._over
        if not work.validation or (step % every and not last):
            return
        began = time.perf_counter()
        found = self._evaluate(work.slot)
        entry: dict[str, Any] = {"step": step, "tokens_seen": self.state.tokens}
        entry |= {f"validation_{k}": v for k, v in found.items()}
        if self.state.best_loss is None or found["loss"] < self.state.best_loss:
            self.state.best_loss, self.state.best_step, self.state.stale = found["loss"], step, 0
            self.best = {n: p.detach().clone() for n, p in self.parameters.items()}
        else:
            self.state.stale += 1
        self.state.history.append(entry)
        self.state.seconds += time.perf_counter() - began
        self._log(entry)
        work.reporter.validated(entry)

    def _stale(self) -> bool:
        patience = self.work.knobs.patience
        if not patience or self.state.stale < patience:
            return False
        self.work.reporter.note(
            f"stopped early at step {self.state.step}: no gain on validation since step "
            f"{self.state.best_step}"
        )
        return True

    @property
    def _over(self) -> bool:
        """Whether the time that the training may take is over."""
        limit = self.work.knobs.seconds
        return limit is not None and self.state.seconds >= limit

    def _out_of_time(self) -> bool:
        if not self._over or self.state.step == 0:
            return False
        self.work.reporter.note(f"ended at step {self.state.step} of {self.steps}: its time was over")
        return True

    # --- checkpoints --------------------------------------------------------------------------

    def _resume(self) -> None:
        if self.work.folder is None:
            return
        found, damaged = checkpoint.newest(self.work.folder / "checkpoints")
        for line in damaged:
            self.work.reporter.note(f"{line}: going on from the one before")
        if found is None:
            self._trim_log(0)
            return
        self.state, self.best = found.state, found.best
        self.gradients.scale = self.state.scale
        if self.state.best_step == self.state.step and self.state.best_loss is not None:
            self.best = found.adapter  # written once, since the two are the same weights
        self._put(found.adapter)
        self.best = {n: t.to(self.work.bank.device).clone() for n, t in self.best.items()}
        self.optimizer.restore(found.optimizer)
        self._saved_step = self.state.step
        self._trim_log(self.state.step)

    def _put(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[name])

    def _save_if_due(self) -> None:
        knobs = self.work.knobs
        if knobs.save_every:
            due = self.state.step % knobs.save_every == 0
        else:
            due = time.monotonic() - self._saved_at > knobs.save_seconds
        if due:
            self._save()

    def _save(self) -> None:
        if self.work.folder is None or self.state.step == self._saved_step:
            return
        same = self.state.best_step == self.state.step
        checkpoint.save(
            self.work.folder / "checkpoints",
            self.state,
            self.parameters,
            self.optimizer.state(),
            {} if same else self.best,
        )
        self._saved_at, self._saved_step = time.monotonic(), self.state.step

    def _finish(self) -> State:
        self.state.finished = True
        self._saved_step = -1
        self._save()
        if self.best:
            self._put(self.best)
        self.work.adapter.trainable(False)
        return self.state

    # --- log ----------------------------------------------------------------------------------

    def _log(self, entry: dict[str, Any]) -> None:
        if "lr" in entry:
            self.work.reporter.step(entry)
        if self.work.folder is not None:
            with (self.work.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def _trim_log(self, step: int) -> None:
        """Forget what the log says of steps that are done again."""
        assert self.work.folder is not None
        path = self.work.folder / "log.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError):
                continue  # a line that a crash cut short
        path.write_text("".join(kept), encoding="utf-8")


def train(work: Work) -> State:
    """Train `work.adapter`, resuming from the newest checkpoint of `work.folder` if there is one."""
    return Trainer(work).run()


def summary(state: State) -> dict[str, Any]:
    """The state as metrics, without what only a resumed run needs."""
    return {k: v for k, v in asdict(state).items() if k not in ("scale", "stale", "finished")}
