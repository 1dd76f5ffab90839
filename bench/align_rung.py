"""Rung's side of bench/align.py. Usage: python -m bench.align_rung JOB RESULT.

The job holds what bench/train_rung.py documents, with `pairs` in place of examples (`prompt_ids`,
`chosen_ids`, `rejected_ids`), `batches` of their indexes, and the name of the `objective`. The result's
`seconds` count the pass for the reference too.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.train_rung import Losses, settings, tell
from rung import bases
from rung.forward.bank import Bank
from rung.forward.reward_head import RewardHead
from rung.forward.trie import Sequence
from rung.methods import artefact
from rung.objectives import Row
from rung.train import estimate
from rung.train.loop import Trainer
from rung.train.plan import Plan
from rung.train.prepare import Prepared
from rung.train.reference import with_reference
from rung.train.sources import Batches
from rung.types import BaseInfo


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train on the job's pairs -> seconds, losses and settings."""
    info = BaseInfo(name="bench", spec=job["base"], path=job["base"], digest="")
    bank = Bank(bases.load(info).model)
    adapter, _ = artefact.load(Path(job["adapter"]), bank)
    told = {"data": "the job", "method": job["method"], "objective": job["objective"]}
    plan, losses = Plan.of("bench", {**told, **settings(job)}), Losses()
    rows = [_row(pair, plan.objective.reads_states) for pair in job["pairs"]]
    if plan.objective.reads_states:
        adapter.reward = RewardHead.fresh(bank.width, job["pairs"][0]["chosen_ids"][-1])
    resident = psutil.Process().memory_info().rss
    plan.train.max_tokens = estimate.of(bank, adapter.size, rows, plan.train, resident).max_tokens
    nothing: Any = None
    prepared = Prepared(
        base=nothing, dataset=nothing, splits=nothing, template=nothing, bank=bank, rows={"train": rows}
    )  # fmt: skip
    start = time.perf_counter()
    prepared = with_reference(prepared, plan, adapter, ["train"], losses, lambda: False)
    scored = time.perf_counter() - start
    ready = prepared.rows["train"]
    source = Batches([[ready[i] for i in batch] for batch in job["batches"]])
    with Trainer(prepared, plan, adapter, source, losses) as trainer:
        start = time.perf_counter()
        trainer.run()
        seconds = time.perf_counter() - start
    return {
        "seconds": scored + seconds, "reference_seconds": scored, "losses": losses.values,
        "settings": {"trie": bank.carries_trie, "threads": torch.get_num_threads()},
    }  # fmt: skip


def _row(pair: dict[str, list[int]], reads_states: bool) -> Row:
    """A pair as the objective's `row` makes it, by the job's own ids."""
    sequences = []
    for side in ("chosen_ids", "rejected_ids"):
        ids = (*pair["prompt_ids"], *pair[side])
        learnt = [False] * len(pair["prompt_ids"]) + [True] * len(pair[side])
        sequences.append(Sequence(ids) if reads_states else Sequence(ids, learnt))
    return Row(sequences=tuple(sequences), weight=1.0, extra={"margin": 0.0})


if __name__ == "__main__":
    tell(train)
