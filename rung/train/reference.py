"""The reference: log-probabilities of rows by the model that training starts from, computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rung.errors import Interrupted, MethodMisfit
from rung.forward import feature_cache
from rung.forward.adapter import Adapter
from rung.forward.packing import pack
from rung.forward.policy import Policy
from rung.forward.token_rows import NO_REFERENCE
from rung.objectives import Row
from rung.objectives.base import Objective
from rung.train.observers import Observer
from rung.train.plan import Plan
from rung.train.prepare import Prepared


def with_reference(
    prepared: Prepared,
    plan: Plan,
    adapter: Adapter,
    parts: Sequence[str],
    observer: Observer,
    stopping: Callable[[], bool],
) -> Prepared:
    """Let the objective prepare the rows of some parts, before anything is trained.

    Args:
        adapter: as training starts, also where a run is resumed.

    Raises:
        Interrupted: when `stopping` says so between two passes.
        MethodMisfit: when the bare base is the reference and has no rows of the added tokens.
    """
    if type(plan.objective).prepare is Objective.prepare:  # needs no reference
        return prepared
    bare = plan.objective.reference == "base"
    if bare and adapter.tokens is not None and adapter.tokens.end > prepared.bank.vocabulary:
        raise MethodMisfit(NO_REFERENCE)
    if bare and (adapter.positions or plan.run.parent):
        observer.note(
            "the reference is the bare base, and training starts elsewhere: the first step's loss is "
            "not that of a policy equal to its reference"
        )
    slot = prepared.bank.add(adapter)
    adapter, scored = (Adapter(), -1) if bare else (adapter, slot)
    scorer = _Scorer(prepared, adapter, scored, plan.train.max_tokens or 1 << 30, observer, stopping)
    try:
        rows = dict(prepared.rows)
        for part in parts:
            if rows[part]:
                rows[part] = plan.objective.prepare(rows[part], scorer)
    finally:
        prepared.bank.remove(slot)
    return replace(prepared, rows=rows)


class _Scorer:
    """Computes log-probabilities of supervised tokens in passes of a few rows."""

    def __init__(
        self, prepared: Prepared, adapter: Adapter, slot: int, max_tokens: int, observer: Observer,
        stopping: Callable[[], bool],
    ):  # fmt: skip
        self.bank, self.adapter, self.slot, self.max_tokens = prepared.bank, adapter, slot, max_tokens
        self.observer, self.stopping = observer, stopping

    def __call__(self, rows: Sequence[Row]) -> list[list[np.ndarray]]:
        """For each row and each of its sequences (n supervised,), float32 or better."""
        self.observer.stage("scoring the rows as training starts")
        counts = [[self._count(s.supervised) for s in row.sequences] for row in rows]
        ends = np.cumsum([sum(c) for c in counts])
        dtype = torch.promote_types(self.bank.dtype, torch.float32)

        def fill(into: dict[str, Tensor]) -> None:
            for chosen in pack([r.ids for r in rows], self.max_tokens, [r.tokens for r in rows]):
                if self.stopping():
                    raise Interrupted
                for i, found in zip(chosen, self._pass([rows[i] for i in chosen]), strict=True):
                    into["logprobs"][ends[i] - len(found) : ends[i]] = found

        found = feature_cache.keep(
            self._name(rows) if dtype == torch.float32 else None,
            {"logprobs": ((int(ends[-1]),), dtype)}, fill, self.observer.note,
        )  # fmt: skip
        if found is None:
            raise MemoryError("the log-probabilities of all rows fit neither on disk nor into memory")
        flat = found["logprobs"].numpy().copy()
        pieces = iter(np.split(flat, np.cumsum([n for c in counts for n in c])[:-1]))
        return [[next(pieces) for _ in row.sequences] for row in rows]

    @torch.no_grad()
    def _pass(self, rows: list[Row]) -> list[Tensor]:
        policy = Policy(self.bank, [s for row in rows for s in row.sequences], self.slot)
        logprobs, edges = policy.logprobs().cpu(), iter(policy.edges)
        return [
            logprobs[torch.from_numpy(np.concatenate([next(edges) for _ in row.sequences]))]
            for row in rows
        ]

    def _count(self, supervised: np.ndarray | None) -> int:
        """Supervised tokens that something stands before, if only a virtual token."""
        first = 1 if self.adapter.embeddings is None else 0
        return 0 if supervised is None else int(supervised[first:].sum())

    def _name(self, rows: Sequence[Row]) -> str | None:
        """What identifies them: base, adapter as it starts, rows and what of them is supervised."""
        total = hashlib.sha256()
        for name, tensor in sorted(self.adapter.parameters().items()):
            total.update(f"{name} {tuple(tensor.shape)};".encode())
            total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        for row in rows:
            for s in row.sequences:
                total.update(f"{len(s)}:".encode() + s.key)
                total.update(b"" if s.supervised is None else np.packbits(s.supervised).tobytes())
        return feature_cache.key(self.bank, "logprobs", self.max_tokens, total.hexdigest())
