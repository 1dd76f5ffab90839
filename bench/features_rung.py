"""Rung's side of bench/features.py. Usage: python -m bench.features_rung JOB RESULT.

The result is that of bench/train_rung.py. The time includes computing the states that training starts
from and writing them to disk.
"""

from __future__ import annotations

import importlib.metadata
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, cast

import psutil
import torch
from safetensors.torch import save_file

from bench.train_rung import GivenOrder, Losses, settings
from rung import bases, home, methods, objectives
from rung.bases.folder import digest_of, inspect
from rung.forward.bank import Bank
from rung.methods.base import Start
from rung.train import estimate, loop
from rung.train.loop import Work
from rung.train.order import Order
from rung.types import BaseInfo, Rendered


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train with Rung's own loop and save the trained weights under their names in the base."""
    path = Path(job["base"])
    info = BaseInfo("bench", str(path), str(path), digest_of(path, inspect(path)))
    bank = Bank(bases.load(info).model, info.digest)
    method = methods.get("last_layers")
    config = method.Config(layers=job["layers"])
    adapter = method.build(bank, config, Start(torch.Generator().manual_seed(0)))
    rows = [Rendered(tuple(e["ids"]), tuple(e["supervised"])) for e in job["examples"]]
    objective, knobs, losses = objectives.get("sft"), settings(job), Losses()
    resident = psutil.Process().memory_info().rss
    guess = estimate.of(bank, adapter.size, rows, objective, 1.0, knobs.batch_size, None, resident)
    order = cast(Order, GivenOrder(job["batches"]))
    work = Work(
        bank, adapter, bank.add(adapter), objective, rows, [], knobs, guess.max_tokens, order,
        reporter=losses,
    )  # fmt: skip
    start = time.perf_counter()
    loop.train(work)
    seconds = time.perf_counter() - start
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().contiguous() for name, tensor in adapter.weights.items()}
    save_file(plain, out / "weights.safetensors", metadata={"format": "pt"})
    kept = sum(f.stat().st_size for f in (home.folder("cache") / "features").glob("*.safetensors"))
    return {
        "seconds": seconds,
        "losses": losses.values,
        "settings": {
            "trained": f"{adapter.size:,} parameters",
            "kept states": f"{kept / 1e6:.1f} MB",
            "threads": torch.get_num_threads(),
        },
    }


def main() -> None:
    result = train(json.loads(Path(sys.argv[1]).read_text()))
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    packages = ("rung", "transformers", "torch")
    result["versions"] = {name: importlib.metadata.version(name) for name in packages}
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
