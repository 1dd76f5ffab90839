"""The gradient of one optimiser step, in micro-batches that fit into memory.

The loss is the mean over the whole step's supervised tokens, so that however the step is split, its
gradient is that of the undivided batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rung.errors import TrainingStopped
from rung.forward.bank import Bank
from rung.forward.features import Boundary
from rung.forward.packing import pack
from rung.forward.policy import Loss, Policy
from rung.launch import Launch
from rung.objectives import Objective, Row

LARGEST_SCALE = 2.0**16


@dataclass
class Gradient:
    """Of the mean loss; one tensor per parameter, in their order, each with memory of its own.

    `metrics` are means over the rows, "loss" among them.
    """

    tensors: list[Tensor]
    metrics: dict[str, float]
    tokens: int

    @cached_property
    def norm(self) -> Tensor:
        """Of all tensors as one vector."""
        return torch.nn.utils.get_total_norm(self.tensors)


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Forward passes of one slot that give an objective's loss.

    Attributes:
        boundary: states that passes start from; None runs the whole base.
    """

    bank: Bank
    objective: Objective
    slot: int
    boundary: Boundary | None = None

    def settled(self, rows: Sequence[Row], max_tokens: int) -> Sequence[Row]:
        """The rows of a step with what the objective needs of all of them together."""

        def logprobs(asked: Sequence[Row]) -> list[list[np.ndarray]]:
            found: list[list[np.ndarray]] = [[] for _ in asked]
            for chosen in pack([r.ids for r in asked], max_tokens, [r.tokens for r in asked]):
                sequences = [s for i in chosen for s in asked[i].sequences]
                policy = Policy(self.bank, sequences, self.slot, self.boundary)
                pieces = iter(policy.per_sequence())
                for i in chosen:
                    found[i] = [next(pieces).cpu().numpy() for _ in asked[i].sequences]
            return found

        with torch.no_grad():
            return self.objective.settle(rows, logprobs)

    def loss(self, rows: Sequence[Row]) -> Loss:
        """The objective's sums over rows, in one pass."""
        sequences = [s for row in rows for s in row.sequences]
        whole = self.objective.reads_states
        policy = Policy(self.bank, sequences, self.slot, self.boundary, whole)
        return self.objective.loss(policy, rows)


class Gradients:
    """Computes gradients of one adapter's parameters.

    Args:
        max_tokens: budget of a micro-batch; halved for good when memory runs out.
        note: told what happened, for the log.
        stopping: asked between micro-batches; True abandons the step.
        launch: the processes that share the rows of a step.
    """

    def __init__(
        self,
        passes: Passes,
        parameters: dict[str, Tensor],
        max_tokens: int,
        note: Callable[[str], None],
        stopping: Callable[[], bool] = lambda: False,
        launch: Launch | None = None,
    ):
        self.passes, self.launch = passes, launch or Launch("local")
        self.parameters = list(parameters.values())
        self.max_tokens, self.note, self.stopping = max_tokens, note, stopping
        # float16 loses small gradients below 6e-8; the loss is scaled up before and down after.
        self.scale = LARGEST_SCALE if passes.bank.dtype == torch.float16 else 1.0

    def start_from(self, boundary: Boundary | None) -> None:
        """Let passes start from kept states."""
        self.passes = replace(self.passes, boundary=boundary)

    def of(self, rows: list[Row], step: int) -> Gradient | None:
        """The step's gradient, or None when it was abandoned.

        Raises:
            TrainingStopped: for a loss or gradient that is not finite, naming step and rows, or when
                a single row does not fit into memory.
        """
        while True:
            result = self._try(rows, step)
            if result is None or _finite(result):
                return result
            if self.scale > 1.0:
                self.scale /= 2
                continue
            raise TrainingStopped(self._blame(rows, step))

    def _try(self, rows: list[Row], step: int) -> Gradient | None:
        rows = list(self.passes.settled(rows, self.max_tokens))
        weight = sum(r.weight for r in rows) or 1.0
        total: list[Tensor] | None = None
        metrics: dict[str, float] = {}
        mine = self.launch.share(rows)
        # A process without a row of its own computes one that counts for nothing, so that it has the
        # same metrics to add.
        waiting = _packed(mine or rows[:1], self.max_tokens)
        more = self.launch.most(len(waiting)) - len(waiting) if self.launch.sharded else 0
        passes = itertools.count()
        while waiting:
            if self.stopping():
                return None
            micro = waiting.pop(0)
            try:
                with self._dropping(step, next(passes)):
                    found, gradients = self._micro(micro, weight)
            except (RuntimeError, MemoryError) as fault:
                if not out_of_memory(fault) or self.launch.sharded:
                    raise
                waiting = self._halve(micro) + waiting
                continue
            _add(metrics, found)
            if total is None and self.scale == 1.0:
                total = _own(gradients, self.parameters)
                continue
            total = total or [torch.zeros_like(p) for p in self.parameters]
            for sum_, gradient in zip(total, gradients, strict=True):
                if gradient is not None:
                    sum_.add_(gradient, alpha=1 / self.scale)
        for _ in range(more):  # passes of others need this one's part of the base
            self._micro(rows[:1], weight)
        total = total or [torch.zeros_like(p) for p in self.parameters]
        sums = torch.tensor(list(metrics.values()), dtype=torch.float64)
        if not mine:
            torch._foreach_zero_([*total, sums])
        self.launch.add([*total, sums])
        means = dict(zip(metrics, sums.tolist(), strict=True))
        return Gradient(total, means, sum(r.tokens for r in rows))

    def _dropping(self, step: int, place: int) -> AbstractContextManager[None]:
        """Drop what training drops in the micro-batch at a place of a step."""
        adapter = self.passes.bank.adapters[self.passes.slot]
        return adapter.dropping(step, self.launch.rank, place)

    def _micro(self, rows: list[Row], weight: float) -> tuple[dict[str, float], tuple]:
        """What a micro-batch adds to the step's means, and to its gradient times the scale."""
        found = self.passes.loss(rows)
        loss = found.total / weight
        metrics = {"loss": float(loss.detach())}
        gradients = torch.autograd.grad(loss * self.scale, self.parameters, allow_unused=True)
        return metrics | {k: v / weight for k, v in found.metrics.items()}, gradients

    def _halve(self, micro: list[Row]) -> list[list[Row]]:
        if len(micro) == 1:
            if self._recompute(micro[0]):
                return [micro]
            raise TrainingStopped(
                f"out of memory on a single row of {micro[0].tokens} tokens ({micro[0].origin}): "
                "lower --max-length, or take a smaller base or a cheaper method"
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        tokens = sum(r.tokens for r in micro)
        self.max_tokens = max(1, min(self.max_tokens, tokens) // 2)
        self.note(
            f"out of memory at {tokens} tokens: the step is repeated in parts of at most "
            f"{self.max_tokens}, with the same gradient"
        )
        half = len(micro) // 2
        return [micro[:half], micro[half:]]

    def _recompute(self, row: Row) -> bool:
        """Compute activations again from now on; False where that is so already, or cannot be."""
        bank = self.passes.bank
        if bank.recomputes:
            return False
        bank.recompute(True)
        if bank.recomputes:
            self.note(
                f"out of memory on a single row of {row.tokens} tokens: activations are computed again "
                "from here on (--recompute on), with the same gradient"
            )
        return bank.recomputes

    def _blame(self, rows: list[Row], step: int) -> str:
        """Which rows alone give a loss that is not finite."""
        rows = list(self.passes.settled(rows, self.max_tokens))
        weight = sum(r.weight for r in rows) or 1.0
        guilty = [r.origin for r in rows if not math.isfinite(self._micro([r], weight)[0]["loss"])]
        named = ", ".join((guilty or [r.origin for r in rows])[:8])
        return (
            f"the loss or its gradient is not finite at step {step + 1}, rows {named}: "
            "the last good weights are kept; lower --lr, or use --dtype float32"
        )


def _packed(rows: Sequence[Row], max_tokens: int) -> list[list[Row]]:
    """Rows in the order of their tokens, so that what they share falls into one micro-batch."""
    groups = pack([r.ids for r in rows], max_tokens, [r.tokens for r in rows])
    return [[rows[i] for i in group] for group in groups]


def _add(sums: dict[str, float], found: dict[str, float]) -> None:
    for name, value in found.items():
        sums[name] = sums.get(name, 0.0) + value


def out_of_memory(fault: BaseException) -> bool:
    """Whether torch, CUDA or the system ran out of memory."""
    if isinstance(fault, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(fault)
    return "out of memory" in text or "can't allocate memory" in text


def _own(gradients: tuple, parameters: list[Tensor]) -> list[Tensor]:
    """Gradients as autograd gave them, in memory that nothing else uses.

    It gives None for a parameter without influence, and may give one tensor, or a part of it, twice.
    """
    found, seen = [], set()
    for gradient, parameter in zip(gradients, parameters, strict=True):
        if gradient is None:
            gradient = torch.zeros_like(parameter)
        storage = gradient.untyped_storage()
        whole = gradient.is_contiguous() and storage.nbytes() == gradient.nbytes
        if not whole or storage.data_ptr() in seen:
            gradient = gradient.clone(memory_format=torch.contiguous_format)
        seen.add(storage.data_ptr())
        found.append(gradient)
    return found


def _finite(result: Gradient) -> bool:
    if not math.isfinite(result.metrics["loss"]):
        return False
    if not result.tensors or bool(result.norm.isfinite()):
        return True
    # Squares overflow long before values do. One value for all tensors: an infinity or NaN anywhere
    # makes the largest magnitude one too.
    return bool(torch.stack(torch._foreach_norm(result.tensors, math.inf)).isfinite().all())


@torch.no_grad()
def evaluate(
    passes: Passes, rows: Sequence[Row], max_tokens: int, launch: Launch | None = None
) -> dict[str, float]:
    """The means of an objective's loss and metrics over rows, {} for none.

    Args:
        launch: the processes that share the rows, each of which gets the means over all.
    """
    launch = launch or Launch("local")
    if not rows:
        return {}
    settled = passes.settled(rows, max_tokens)
    mine = launch.share(settled)
    # As in a step: a process without a row computes one that does not count.
    micros = _packed(mine or settled[:1], max_tokens)
    sums: dict[str, float] = {}
    for place in range(launch.most(len(micros)) if launch.sharded else len(micros)):
        found = passes.loss(micros[place] if place < len(micros) else micros[0])
        if place < len(micros):
            named = {"": found.weight, "loss": float(found.total), **found.metrics}
            _add(sums, named)
    total = torch.tensor(list(sums.values()), dtype=torch.float64) * bool(mine)
    launch.add([total])
    weight, *values = total.tolist()
    return dict(zip(list(sums)[1:], (v / max(weight, 1e-9) for v in values), strict=True))
