"""TRL's reward loss and gradient on given token ids. Usage: reward_trl.py JOB RESULT.

The job, a JSON file:

    model     folder of a sequence classifier with one label, which is read in double precision
    pairs     [{"chosen_ids": [int], "rejected_ids": [int], "margin": number}], one batch
    margins   whether TRL is told of the margins
    centre    its center_rewards_coefficient

The result, a safetensors file: loss, and PARAMETER for every gradient.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from dpo_trl import tokenizer
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig, RewardTrainer


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    model = AutoModelForSequenceClassification.from_pretrained(job["model"], dtype=torch.float64)
    dropped = () if job["margins"] else ("margin",)
    batch = [{k: v for k, v in pair.items() if k not in dropped} for pair in job["pairs"]]
    with tempfile.TemporaryDirectory() as folder:
        config = RewardConfig(
            output_dir=folder, center_rewards_coefficient=job["centre"], bf16=False, use_cpu=True,
            gradient_checkpointing=False, report_to=[], disable_dropout=True,
        )  # fmt: skip
        rows = Dataset.from_dict({"chosen": ["a b"], "rejected": ["a c"]})
        trainer = RewardTrainer(
            model=model, args=config, train_dataset=rows, processing_class=tokenizer()
        )
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(batch))
        loss.backward()
        found = {
            name: p.grad.contiguous().clone()
            for name, p in trainer.model.named_parameters()
            if p.grad is not None
        }
        save_file({"loss": loss.detach().reshape(1).clone(), **found}, sys.argv[2])


if __name__ == "__main__":
    main()
