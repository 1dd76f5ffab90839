"""Rung's side of bench/train.py. Usage: python -m bench.train_rung JOB RESULT.

The job, a JSON file that the peers read too:

    base            folder of the base; float32 on the CPU
    method          "lora" or "prompt_tuning"; method_settings are PEFT's names for its settings
    adapter         folder in PEFT's layout with the weights both sides start from
    out             where to write the trained adapter, in PEFT's layout, so that one ruler scores
                    both sides (bench/peers/evaluate.py)
    examples        [{"ids": [int], "supervised": [bool]}]
    batches         [[index of an example]], one list per optimiser step, in this order
    learning_rate   constant (schedule); AdamW with weight_decay, betas, eps
    max_grad_norm   gradients are clipped to it
    seed            for whatever is drawn

A step's loss is the mean over the supervised tokens of its batch. The result:

    seconds         wall time of the loop: from before the first batch is put together to after the
                    last optimiser step, without loading the base and reading the examples
    losses          one per step, before that step's update
    peak_bytes      high-water mark of the process's resident memory
    settings        {name: value} worth knowing
    versions        {package: version}
    computed_tokens optional: rows that went through the layers, if fewer or more than the examples'
                    tokens (a trie computes shared text once; virtual tokens come on top)
"""

from __future__ import annotations

import importlib.metadata
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save_file

from rung import bases, methods
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.forward.trie import Sequence as Tokens
from rung.methods import artefact
from rung.objectives import Row
from rung.train import estimate
from rung.train.loop import Trainer
from rung.train.observers import Observer, Step
from rung.train.plan import Plan
from rung.train.prepare import Prepared
from rung.train.sources import Batches
from rung.types import BaseInfo


class Losses(Observer):
    """Keeps what every step reports."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def step(self, event: Step) -> None:
        self.values.append(event.metrics["loss"])


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train with Rung's own loop and save the adapter.

    Returns:
        seconds, losses, settings and computed_tokens of the module's docstring.
    """
    info = BaseInfo(name="bench", spec=job["base"], path=job["base"], digest="")
    bank = Bank(bases.load(info).model)
    adapter, _ = artefact.load(Path(job["adapter"]), bank)
    result = timed(job, bank, adapter)
    save(job, bank, adapter)
    settings = {"trie": bank.carries_trie, "threads": torch.get_num_threads()}
    return result | {"settings": settings}


def rows_of(job: dict[str, Any]) -> list[Row]:
    """The job's examples as supervised fine-tuning sees them."""
    made = []
    for example in job["examples"]:
        tokens = Tokens(example["ids"], example["supervised"])
        made.append(Row(sequences=(tokens,), weight=float(sum(example["supervised"]))))
    return made


def timed(job: dict[str, Any], bank: Bank, adapter: Adapter) -> dict[str, Any]:
    """Train an adapter on the job: seconds, losses and computed_tokens."""
    rows, losses = rows_of(job), Losses()
    plan = Plan.of("bench", {"data": "the job", "method": job["method"], **settings(job)})
    resident = psutil.Process().memory_info().rss
    plan.train.max_tokens = estimate.of(bank, adapter.size, rows, plan.train, resident).max_tokens
    nothing: Any = None
    prepared = Prepared(
        base=nothing, dataset=nothing, splits=nothing, template=nothing, bank=bank, rows={}
    )  # fmt: skip
    source = Batches([[rows[i] for i in batch] for batch in job["batches"]])
    with Trainer(prepared, plan, adapter, source, losses) as trainer:
        start = time.perf_counter()
        trainer.run()
        seconds = time.perf_counter() - start
        computed = sum(computed_tokens(bank, batch, trainer.slot) for batch in source.batches)
    return {"seconds": seconds, "losses": losses.values, "computed_tokens": computed}


def settings(job: dict[str, Any]) -> dict[str, Any]:
    """The job in Rung's own words."""
    if job["eps"] != 1e-8:
        raise ValueError("Rung's AdamW keeps torch's eps of 1e-8")
    beta1, beta2 = job["betas"]
    return {
        "lr": job["learning_rate"],
        "epochs": 1.0,
        "batch_size": len(job["batches"][0]),
        "schedule": job["schedule"],
        "warmup": 0.0,
        "weight_decay": job["weight_decay"],
        "beta1": beta1,
        "beta2": beta2,
        "clip": job["max_grad_norm"],
    }


def computed_tokens(bank: Bank, rows: Sequence[Row], slot: int) -> int:
    """Rows of a step's trie, were it not split into micro-batches."""
    return len(bank.trie([s.at(slot) for row in rows for s in row.sequences]))


def save(job: dict[str, Any], bank: Bank, adapter: Adapter) -> None:
    """The trained tensors under the settings that the adapter came with."""
    method = methods.get(job["method"])
    _, tensors = method.to_files(adapter, bank, method.Config())
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, out / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copy(Path(job["adapter"]) / "adapter_config.json", out)


def tell(train: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Run the job that the command line names, and write its result."""
    result = train(json.loads(Path(sys.argv[1]).read_text()))
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    packages = ("rung", "transformers", "torch")
    result["versions"] = {name: importlib.metadata.version(name) for name in packages}
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    tell(train)
