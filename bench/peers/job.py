"""The contract between bench/train.py and the processes it times, inside the peers' environment.

The job is a JSON file; bench/train_rung.py documents its fields and those of the result.
"""

from __future__ import annotations

import importlib.metadata
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import (
    PeftConfig,
    get_peft_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback


def read() -> dict[str, Any]:
    """The job named on the command line."""
    return json.loads(Path(sys.argv[1]).read_text())


def load_base(job: dict[str, Any]) -> Any:
    """The base in float32, as the peers load it by default."""
    return AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32)


def load_model(job: dict[str, Any]) -> Any:
    """The base with the initial adapter, ready to train.

    PEFT refuses to train a soft prompt that `from_pretrained` loaded, so its weights are set.
    """
    config = PeftConfig.from_pretrained(job["adapter"])
    config.inference_mode = False
    model = get_peft_model(load_base(job), config)
    set_peft_model_state_dict(model, load_peft_weights(job["adapter"], device="cpu"))
    return model


def load_tokenizer(job: dict[str, Any]) -> Any:
    """Only its padding token matters: the examples are token ids already."""
    return AutoTokenizer.from_pretrained(job["base"])


def rows(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The examples in the order they are trained on; each may come several times."""
    return [job["examples"][i] for batch in job["batches"] for i in batch]


def trainer_settings(job: dict[str, Any]) -> dict[str, Any]:
    """What must be equal on both sides. All else stays at the peer's default."""
    return {
        "output_dir": job["out"] + "-trainer",
        "per_device_train_batch_size": len(job["batches"][0]),
        "max_steps": len(job["batches"]),
        "train_sampling_strategy": "sequential",  # the job's order
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "weight_decay": job["weight_decay"],
        "adam_beta1": job["betas"][0],
        "adam_beta2": job["betas"][1],
        "adam_epsilon": job["eps"],
        "max_grad_norm": job["max_grad_norm"],
        "bf16": False,
        "use_cpu": True,
        # These change nothing in the training: losses of every step, no checkpoints, no trackers.
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


class Clock(TrainerCallback):
    """Wall time of the training loop alone, without loading and preparing."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self._start


def train(
    job: dict[str, Any],
    trainer: Any,
    packages: list[str],
    save: Callable[[str], object] | None = None,
) -> None:
    """Train, save the adapter in PEFT's layout (or as `save` does) and write the result."""
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    (save or trainer.model.save_pretrained)(job["out"])
    args = trainer.args
    result = {
        "seconds": clock.seconds,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "settings": {
            "gradient_checkpointing": args.gradient_checkpointing,
            "optim": str(getattr(args.optim, "value", args.optim)),
            "attention": trainer.model.config._attn_implementation,
            "threads": torch.get_num_threads(),
        },
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }
    Path(sys.argv[2]).write_text(json.dumps(result))
