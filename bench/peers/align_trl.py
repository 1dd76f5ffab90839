"""TRL's side of bench/align.py: DPOTrainer and RewardTrainer at their defaults.

Usage: align_trl.py JOB RESULT.
"""

from __future__ import annotations

from typing import Any

import job as jobs
import torch
from datasets import Dataset
from peft import PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict
from transformers import AutoModelForSequenceClassification
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer


class OfIds(DPOTrainer):
    """Takes token ids as they are: its own preparation begins with texts."""

    def _prepare_dataset(self, dataset, *args):
        return dataset


def tokenizer_of(job: dict[str, Any]) -> Any:
    """One whose padding is no token of the pairs: a reward is read before the first padding."""
    tokenizer = jobs.load_tokenizer(job)
    used = {i for p in job["pairs"] for ids in p.values() for i in ids}
    pad = next(i for i in range(len(tokenizer) - 1, -1, -1) if i not in used)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    return tokenizer


def ordered(job: dict[str, Any]) -> list[dict[str, list[int]]]:
    """The pairs in the order they are trained on."""
    return [job["pairs"][i] for batch in job["batches"] for i in batch]


def dpo(job: dict[str, Any]) -> Any:
    rows = ordered(job)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return OfIds(
        model=jobs.load_model(job), args=DPOConfig(**jobs.trainer_settings(job)),
        train_dataset=Dataset.from_dict(columns), processing_class=tokenizer_of(job),
    )  # fmt: skip


def reward(job: dict[str, Any]) -> Any:
    tokenizer = tokenizer_of(job)
    base = AutoModelForSequenceClassification.from_pretrained(
        job["base"], num_labels=1, dtype=torch.float32, pad_token_id=tokenizer.pad_token_id
    )
    torch.nn.init.zeros_(base.score.weight)  # as Rung begins: all texts are equally good
    config = PeftConfig.from_pretrained(job["adapter"])
    config.inference_mode, config.task_type, config.modules_to_save = False, "SEQ_CLS", ["score"]
    model = get_peft_model(base, config)
    weights = load_peft_weights(job["adapter"], device="cpu")
    weights["base_model.model.score.weight"] = torch.zeros_like(base.score.weight)
    found = set_peft_model_state_dict(model, weights)
    assert not found.unexpected_keys, found.unexpected_keys[:3]
    rows = ordered(job)
    columns = {
        side: [row["prompt_ids"] + row[side] for row in rows] for side in ("chosen_ids", "rejected_ids")
    }
    return RewardTrainer(
        model=model, args=RewardConfig(**jobs.trainer_settings(job)),
        train_dataset=Dataset.from_dict(columns), processing_class=tokenizer,
    )  # fmt: skip


def main() -> None:
    job = jobs.read()
    trainer = {"dpo": dpo, "reward": reward}[job["objective"]](job)
    jobs.train(job, trainer, ["trl", "peft", "transformers", "torch"])


if __name__ == "__main__":
    main()
