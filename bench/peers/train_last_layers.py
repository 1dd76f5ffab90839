"""transformers' Trainer at its defaults over a base whose last layers alone are unfrozen.

Usage: train_last_layers.py JOB RESULT.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import job as jobs
from safetensors.torch import save_file
from train_peft import plain_trainer


def unfreeze(model: Any, count: int) -> list[str]:
    """Train the last `count` layers and the final norm alone; returns the parameters' names."""
    model.requires_grad_(False)
    inner = model.model
    for module in (*inner.layers[-count:], inner.norm):
        module.requires_grad_(True)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def main() -> None:
    job = jobs.read()
    model = jobs.load_base(job)
    names = unfreeze(model, job["layers"])
    trainer = plain_trainer(job, model)

    def save(folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        weights = {n: model.get_parameter(n).detach().contiguous() for n in names}
        save_file(weights, Path(folder) / "weights.safetensors", metadata={"format": "pt"})

    jobs.train(job, trainer, ["transformers", "torch"], save)


if __name__ == "__main__":
    main()
