"""TRL's side of bench/align_grpo.py: GRPOTrainer at its defaults. Usage: grpo_trl.py JOB RESULT."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import job as jobs
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer


def says_a_number(completions, **_):
    """1 where a digit is found, as the other side's reward."""
    return [float(bool(re.search("[0-9]", c[0]["content"]))) for c in completions]


def main() -> None:
    job = jobs.read()
    ordered = [job["prompts"][i] for batch in job["batches"] for i in batch]
    prompts = [[{"role": "user", "content": text}] for text in ordered]
    settings = jobs.trainer_settings(job)
    settings.pop("train_sampling_strategy")
    size = len(job["batches"][0]) * job["answers"]
    settings |= {
        "per_device_train_batch_size": size, "num_generations": job["answers"],
        "max_completion_length": job["tokens"], "shuffle_dataset": False, "seed": job["seed"],
    }  # fmt: skip
    trainer = GRPOTrainer(
        model=jobs.load_model(job), reward_funcs=says_a_number, args=GRPOConfig(**settings),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=jobs.load_tokenizer(job),
    )  # fmt: skip
    jobs.train(job, trainer, ["trl", "transformers", "torch", "peft"])
    result = json.loads(Path(sys.argv[2]).read_text())
    history = trainer.state.log_history
    result["answer_tokens"] = [
        entry["completions/mean_length"] for entry in history if "completions/mean_length" in entry
    ]
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
