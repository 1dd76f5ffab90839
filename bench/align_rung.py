"""Rung's side of bench/align.py. Usage: python -m bench.align_rung JOB RESULT."""

from __future__ import annotations

import os
import tempfile
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
from rung.train.observers import Observer
from rung.train.plan import Plan
from rung.train.prepare import Prepared
from rung.train.reference import with_reference
from rung.train.sources import Batches
from rung.types import BaseInfo


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train with Rung's own loop: seconds, losses and settings as bench/train_rung.py describes."""
    info = BaseInfo(name="bench", spec=job["base"], path=job["base"], digest="")
    bank = Bank(bases.load(info).model)
    adapter, _ = artefact.load(Path(job["adapter"]), bank)
    plan = Plan.of(
        "bench",
        {"data": "the job", "method": job["method"], "objective": job["objective"], **settings(job)},
    )
    rows, losses = rows_of(job, plan.objective.reads_states), Losses()
    if plan.objective.scores:
        adapter.reward = RewardHead.fresh(bank.width, int(rows[0].ids[-1]))
    resident = psutil.Process().memory_info().rss
    plan.train.max_tokens = estimate.of(bank, adapter.size, rows, plan.train, resident).max_tokens
    nothing: Any = None
    prepared = Prepared(
        base=nothing, dataset=nothing, splits=nothing, template=nothing, bank=bank, rows={"train": rows}
    )
    start = time.perf_counter()
    prepared = with_reference(prepared, plan, adapter, ("train",), Observer(), lambda: False)
    rows = prepared.rows["train"]
    source = Batches([[rows[i] for i in batch] for batch in job["batches"]])
    prepared.rows.clear()
    with Trainer(prepared, plan, adapter, source, losses) as trainer:
        trainer.run()
    seconds = time.perf_counter() - start
    about = {"trie": bank.carries_trie, "threads": torch.get_num_threads()}
    return {"seconds": seconds, "losses": losses.values, "settings": about}


def rows_of(job: dict[str, Any], whole: bool) -> list[Row]:
    """The job's pairs as an objective sees them; `whole` where nothing of them is predicted."""
    rows = []
    for pair in job["pairs"]:
        prompt = pair["prompt_ids"]
        sequences = tuple(
            Sequence(
                [*prompt, *side],
                None if whole else [False] * len(prompt) + [True] * len(side),
            )
            for side in (pair["chosen_ids"], pair["rejected_ids"])
        )
        rows.append(Row(sequences=sequences, weight=1.0, extra={"margin": 0.0}))
    return rows


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ["RUNG_HOME"] = home  # nothing that an earlier run kept is found again
        tell(train)
