"""TRL's side: SFTTrainer at its defaults. Usage: train_trl.py JOB RESULT."""

from __future__ import annotations

import job as jobs
from datasets import Dataset
from trl import SFTConfig, SFTTrainer


def main() -> None:
    job = jobs.read()
    model = jobs.load_model(job)
    columns = {
        "input_ids": [row["ids"] for row in jobs.rows(job)],
        "completion_mask": [[int(s) for s in row["supervised"]] for row in jobs.rows(job)],
    }
    longest = max(len(ids) for ids in columns["input_ids"])
    config = SFTConfig(
        **jobs.trainer_settings(job),
        completion_only_loss=True,
        max_length=max(1024, longest),  # its default, and never a truncated example
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_dict(columns),
        processing_class=jobs.load_tokenizer(job),
    )
    jobs.train(job, trainer, ["trl", "peft", "transformers", "torch"])


if __name__ == "__main__":
    main()
