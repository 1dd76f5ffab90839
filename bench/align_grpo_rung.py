"""Rung's side of bench/align_grpo.py. Usage: python -m bench.align_grpo_rung JOB RESULT.

The job holds `prompts`, `batches` of their indexes, `answers`, `tokens`, and what bench/train_rung.py
documents. `seconds` are those of whole steps: drawing, scoring, learning.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from bench.train_rung import settings, tell
from rung import bases
from rung.data import Template
from rung.forward.bank import Bank
from rung.methods import artefact
from rung.objectives import Setting
from rung.train import estimate
from rung.train.loop import Trainer
from rung.train.observers import Observer, Step
from rung.train.plan import Plan
from rung.train.prepare import Prepared
from rung.train.sources import Batches
from rung.types import BaseInfo, Example

REWARD = "regex:[0-9]"  # as bench/peers/grpo_trl.py scores


class Told(Observer):
    """Keeps losses and lengths."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.lengths: list[float] = []

    def step(self, event: Step) -> None:
        self.losses.append(event.metrics["loss"])
        self.lengths.append(event.metrics["answer_tokens"])


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train on the job's prompts -> seconds, losses, mean lengths and settings."""
    info = BaseInfo(name="bench", spec=job["base"], path=job["base"], digest="")
    bank = Bank(bases.load(info).model)
    adapter, _ = artefact.load(Path(job["adapter"]), bank)
    given = {
        "data": "the job", "method": job["method"], "objective": "grpo", "reward": [REWARD],
        "answers": job["answers"], "answer_tokens": job["tokens"],
        "max_tokens": estimate.MAX_MICRO_BATCH_TOKENS["cpu"],
    }  # fmt: skip
    plan, told = Plan.of("bench", {**given, **settings(job)}), Told()
    template = Template.of(AutoTokenizer.from_pretrained(job["base"]))
    asked = [Example(messages=({"role": "user", "content": text},)) for text in job["prompts"]]
    rows, _ = plan.objective.rows(asked, template, bank.context)
    nothing: Any = None
    prepared = Prepared(
        base=nothing, dataset=nothing, splits=nothing, template=template, bank=bank, rows={}
    )
    source = plan.objective.source(
        Setting(
            bank=bank, template=template, adapter=adapter, seed=job["seed"], note=print,
            shuffled=Batches([[rows[i] for i in batch] for batch in job["batches"]]),
            stopping=lambda: False,
        )
    )  # fmt: skip
    with closing(source), Trainer(prepared, plan, adapter, source, told) as trainer:
        start = time.perf_counter()
        trainer.run()
        seconds = time.perf_counter() - start
    return {
        "seconds": seconds, "losses": told.losses, "answer_tokens": told.lengths,
        "settings": {"trie": bank.carries_trie, "threads": torch.get_num_threads()},
    }  # fmt: skip


if __name__ == "__main__":
    tell(train)
