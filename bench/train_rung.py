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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save_file

from rung import bases, methods, objectives
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.methods import artefact
from rung.train import estimate, loop
from rung.train.knobs import TrainKnobs
from rung.train.loop import Silent, Work
from rung.train.order import GivenOrder
from rung.types import BaseInfo, Rendered


class Losses(Silent):
    """Keeps what every step reports."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def step(self, entry: dict[str, Any]) -> None:
        self.values.append(entry["loss"])


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train with Rung's own loop and save the adapter.

    Returns:
        seconds, losses, settings and computed_tokens of the module's docstring.
    """
    info = BaseInfo(name="bench", spec=job["base"], path=job["base"], digest="")
    bank = Bank(bases.load(info).model)
    adapter, _ = artefact.load(Path(job["adapter"]), bank)
    work, result = timed(job, bank, adapter)
    save(job, work)
    settings = {"trie": bank.carries_trie, "threads": torch.get_num_threads()}
    return result | {"settings": settings, "computed_tokens": computed_tokens(work)}


def timed(job: dict[str, Any], bank: Bank, adapter: Adapter) -> tuple[Work, dict[str, Any]]:
    """Train an adapter on the job; what was worked on, and seconds and losses."""
    rows = [Rendered(tuple(e["ids"]), tuple(e["supervised"])) for e in job["examples"]]
    objective, knobs, losses = objectives.get("sft"), settings(job), Losses()
    resident = psutil.Process().memory_info().rss
    guess = estimate.of(bank, adapter.size, rows, objective, 1.0, knobs.batch_size, None, resident)
    work = Work(
        bank, adapter, bank.add(adapter), objective, rows, [], knobs, guess.max_tokens,
        GivenOrder.of(job["batches"]), reporter=losses,
    )  # fmt: skip
    start = time.perf_counter()
    loop.train(work)
    return work, {"seconds": time.perf_counter() - start, "losses": losses.values}


def settings(job: dict[str, Any]) -> TrainKnobs:
    """The job in Rung's own words."""
    beta1, beta2 = job["betas"]
    knobs = TrainKnobs(
        lr=job["learning_rate"],
        steps=len(job["batches"]),
        batch_size=len(job["batches"][0]),
        schedule=job["schedule"],
        warmup=0.0,
        weight_decay=job["weight_decay"],
        beta1=beta1,
        beta2=beta2,
        clip=job["max_grad_norm"],
    )
    if job["eps"] != 1e-8:
        raise ValueError("Rung's AdamW keeps torch's eps of 1e-8")
    return knobs


def computed_tokens(work: Work) -> int:
    """Rows of the tries of all steps, were no step split into micro-batches."""
    total = 0
    for step in range(work.order.per_epoch):
        batch = [work.train[i] for i in work.order.batch(step)]
        trie = work.bank.trie([s for r in batch for s in work.objective.sequences(r, work.slot)])
        total += len(trie.ids)
    return total


def save(job: dict[str, Any], work: Work) -> None:
    """The trained tensors under the settings that the adapter came with."""
    method = methods.get(job["method"])
    _, tensors = method.to_files(work.adapter, work.bank, method.Config())
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
