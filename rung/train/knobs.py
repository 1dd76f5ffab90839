"""The settings of a run and of its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rung.config import knob


@dataclass
class RunKnobs:
    """What is adapted, how, and where."""

    group: ClassVar[str] = "run"

    base: str = knob(
        "smollm2-135m", "The base model: a name of the catalogue, a folder, a file or a hub id."
    )
    method: str = knob("lora", "How to adapt it.")
    objective: str = knob("sft", "What training minimises.")
    parent: str | None = knob(None, "Go on from this model instead of from scratch.", metavar="NAME")
    dtype: str = knob(
        "auto",
        "Precision of the base; auto takes what a quick measurement finds fastest.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    quantize: str = knob(
        "none",
        "Keep the base's weights in fewer bits, which takes a quarter of the memory or less.",
        choices=("none", "int8", "nf4"),
    )
    device: str = knob("auto", "Where to run: auto, cpu, cuda, cuda:1 or mps.")
    push_to_hub: str | None = knob(
        None, "Upload the finished model to this repository.", metavar="REPO"
    )


@dataclass
class TrainKnobs:
    """How training goes."""

    group: ClassVar[str] = "training"

    lr: float = knob(1e-4, "Peak learning rate.", above=0, most=100)
    epochs: float = knob(3.0, "Passes over the training rows.", above=0, most=10000)
    steps: int | None = knob(None, "Stop after so many steps, whatever the epochs say.", least=1)
    batch_size: int = knob(8, "Rows per optimiser step.", least=1, most=65536)
    max_length: int = knob(1024, "Longer conversations are left out, longer texts split.", least=2)
    max_tokens: int | None = knob(
        None, "Tokens per micro-batch; what fits into memory by default.", least=1
    )
    seed: int = knob(
        0, "Seed of the order of the rows and of the initial weights.", least=0, most=2**32 - 1
    )
    schedule: str = knob(
        "linear", "How the learning rate falls.", choices=("constant", "linear", "cosine")
    )
    warmup: float = knob(0.03, "Share of the steps in which the rate rises.", least=0, most=1)
    weight_decay: float = knob(0.0, "Decoupled weight decay of AdamW.", least=0)
    beta1: float = knob(0.9, "AdamW's decay of the mean.", least=0, most=0.9999)
    beta2: float = knob(0.999, "AdamW's decay of the squares.", least=0, most=0.99999)
    clip: float = knob(1.0, "Largest norm of a step's gradient.", above=0)
    eval_every: int | None = knob(
        None, "Steps between validations; about twice an epoch by default.", least=1
    )
    patience: int = knob(3, "Stop after so many validations without a gain; 0: never.", least=0)
    seconds: float | None = knob(
        None, "End after so many seconds with what is best by then, whatever the epochs say.", above=0
    )
    save_every: int | None = knob(None, "Steps between checkpoints; by time by default.", least=1)
    save_seconds: float = knob(60.0, "Seconds between checkpoints.", above=0)
