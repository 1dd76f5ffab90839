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
        "smollm2-135m",
        "The base model: a name of the catalogue, a folder, a file or a hub id.",
        foreign=("model", "model_name", "model_name_or_path", "base_model", "base_model_name_or_path"),
    )
    method: str = knob(
        "lora", "How to adapt it.", foreign=("peft_type", "finetuning_type", "tuner_type")
    )
    objective: str = knob("sft", "What training minimises.")
    parent: str | None = knob(
        None, "Go on from this model, on its base and by its method.", metavar="NAME"
    )
    dtype: str = knob(
        "auto",
        "Precision of the base; auto takes what a quick measurement finds fastest.",
        choices=("auto", "float32", "bfloat16", "float16"),
        foreign=("torch_dtype", "bf16=bfloat16", "fp16=float16"),
    )
    quantize: str = knob(
        "none",
        "Keep the base's weights in fewer bits, which takes a quarter of the memory or less.",
        choices=("none", "int8", "int4", "nf4"),
        foreign=("load_in_4bit=nf4", "load_in_8bit=int8", "qlora=nf4", "bnb_4bit_quant_type"),
    )
    device: str = knob(
        "auto", "Where to run: auto, cpu, cuda, cuda:1 or mps.", foreign=("device_map", "use_cpu=cpu")
    )
    launch: str = knob(
        "local",
        "Which processes train: this one (local), several here (torchrun), or on a cluster (ray).",
    )
    processes: int | None = knob(
        None, "How many processes a launch starts; by default one for each GPU, or one.", least=1,
        most=1024, foreign=("nproc_per_node", "num_processes"),
    )  # fmt: skip
    shard: bool = knob(
        False,
        "Hold a part of each layer of the base in each process (FSDP2), if it is too large for one.",
        foreign=("fsdp",),
    )
    track: list[str] = knob(
        [], "Where figures go beside the terminal; give it again for more.", metavar="TRACKER",
        names=True, foreign=("report_to", "log_with", "reporting_integrations"),
    )  # fmt: skip
    push_to_hub: str | None = knob(
        None,
        "Upload the finished model to this repository.",
        metavar="REPO",
        foreign=("hub_model_id",),
    )


# What a run finds out about its machine where it is not asked for; another run may find something else.
SETTLED = ("device", "dtype", "max_tokens", "recompute")


@dataclass
class TrainKnobs:
    """How training goes."""

    group: ClassVar[str] = "training"

    lr: float = knob(1e-4, "Peak learning rate.", above=0, most=100, foreign=("learning_rate",))
    epochs: float = knob(
        3.0,
        "Passes over the training rows.",
        above=0,
        most=10000,
        foreign=("num_train_epochs", "num_epochs", "n_epochs", "max_epochs"),
    )
    steps: int | None = knob(
        None,
        "Stop after so many steps, where the epochs do not end before.",
        least=1,
        foreign=("max_steps", "num_steps", "iters"),
    )
    batch_size: int = knob(
        8,
        "Rows per optimiser step.",
        least=1,
        most=65536,
        foreign=(
            "per_device_train_batch_size",
            "train_batch_size",
            "global_batch_size",
            "gradient_accumulation_steps",
        ),
    )
    max_length: int = knob(
        1024,
        "Longer conversations are left out, longer texts split.",
        least=2,
        foreign=("max_seq_length", "max_seq_len", "model_max_length", "block_size", "cutoff_len"),
    )
    max_tokens: int | None = knob(
        None, "Tokens per micro-batch; what fits into memory by default.", least=1
    )
    recompute: str = knob(
        "auto",
        "Compute activations again in backward passes in place of keeping them: a third more time, "
        "much less memory; auto where a row would not fit else.",
        choices=("auto", "on", "off"),
        foreign=("gradient_checkpointing=on", "activation_checkpointing=on",
                 "use_gradient_checkpointing=on"),
    )  # fmt: skip
    seed: int = knob(
        0, "Seed of the order of the rows and of the initial weights.", least=0, most=2**32 - 1
    )
    schedule: str = knob(
        "linear",
        "How the learning rate falls.",
        choices=("constant", "linear", "cosine"),
        foreign=("lr_scheduler_type", "lr_scheduler"),
    )
    warmup: float = knob(
        0.03,
        "Share of the steps in which the rate rises.",
        least=0,
        most=1,
        foreign=("warmup_ratio", "warmup_steps"),
    )
    optimizer: str = knob(
        "adamw",
        "What updates the weights; adamw8bit keeps AdamW's moments in a byte each in place of four.",
        choices=("adamw", "adamw8bit"),
        foreign=("optim",),
    )
    weight_decay: float = knob(0.0, "Decoupled weight decay of AdamW.", least=0)
    beta1: float = knob(
        0.9, "AdamW's decay of the mean.", least=0, most=0.9999, foreign=("adam_beta1",)
    )
    beta2: float = knob(
        0.999, "AdamW's decay of the squares.", least=0, most=0.99999, foreign=("adam_beta2",)
    )
    clip: float = knob(
        1.0, "Largest norm of a step's gradient.", above=0, foreign=("max_grad_norm", "grad_clip")
    )
    eval_every: int | None = knob(
        None,
        "Steps between validations; about twice an epoch by default.",
        least=1,
        foreign=("eval_steps", "steps_per_eval"),
    )
    patience: int = knob(
        3,
        "Stop after so many validations without a gain; 0: never.",
        least=0,
        foreign=("early_stopping_patience",),
    )
    save_every: int | None = knob(
        None, "Steps between checkpoints; by time by default.", least=1, foreign=("save_steps",)
    )
    seconds: float | None = knob(
        None, "End after so many seconds with what is best by then, whatever the epochs say.", above=0
    )
    save_seconds: float = knob(60.0, "Seconds between checkpoints.", above=0)
