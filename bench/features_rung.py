"""Rung's side of bench/features.py. Usage: python -m bench.features_rung JOB RESULT.

The result is that of bench/train_rung.py. The time includes computing the states that training starts
from and writing them to disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bench.train_rung import tell, timed
from rung import bases, home, methods
from rung.bases.folder import digest_of, inspect
from rung.forward.bank import Bank
from rung.methods.base import Start
from rung.types import BaseInfo


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train with Rung's own loop and save the trained weights under their names in the base."""
    path = Path(job["base"])
    info = BaseInfo("bench", str(path), str(path), digest_of(path, inspect(path)))
    bank = Bank(bases.load(info).model, info.digest)
    method = methods.get("last_layers")
    config = method.Config(layers=job["layers"])
    adapter = method.build(bank, config, Start(torch.Generator().manual_seed(0)))
    result = timed(job, bank, adapter)
    out = Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().contiguous() for name, tensor in adapter.weights.items()}
    save_file(plain, out / "weights.safetensors", metadata={"format": "pt"})
    kept = sum(f.stat().st_size for f in (home.folder("cache") / "features").glob("*.safetensors"))
    return result | {
        "settings": {
            "trained": f"{adapter.size:,} parameters",
            "kept states": f"{kept / 1e6:.1f} MB",
            "threads": torch.get_num_threads(),
        },
    }


if __name__ == "__main__":
    tell(train)
