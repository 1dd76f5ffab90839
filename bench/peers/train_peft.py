"""PEFT's side: transformers' Trainer at its defaults over a PEFT model, with a padding collator.

Usage: train_peft.py JOB RESULT.
"""

from __future__ import annotations

from typing import Any

import job as jobs
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments


def plain_trainer(job: dict[str, Any], model: Any) -> Trainer:
    """The Trainer over the job's examples, with labels of -100 where nothing is supervised."""
    rows = jobs.rows(job)
    columns = {
        "input_ids": [row["ids"] for row in rows],
        "attention_mask": [[1] * len(row["ids"]) for row in rows],
        "labels": [
            [token if kept else -100 for token, kept in zip(row["ids"], row["supervised"], strict=True)]
            for row in rows
        ],
    }
    tokenizer = jobs.load_tokenizer(job)
    return Trainer(
        model=model,
        args=TrainingArguments(**jobs.trainer_settings(job)),
        train_dataset=Dataset.from_dict(columns),
        # The collator that pads labels too, whatever its name says.
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=-100),
        processing_class=tokenizer,
    )


def main() -> None:
    job = jobs.read()
    model = jobs.load_model(job)
    trainer = plain_trainer(job, model)
    jobs.train(job, trainer, ["peft", "transformers", "torch"])


if __name__ == "__main__":
    main()
