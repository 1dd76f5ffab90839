"""TRL's side of bench/align.py. Usage: align_trl.py JOB RESULT.

DPOTrainer or RewardTrainer with a fresh LoRA, whose weights are then set to those of the job. The ids
are given, so nothing is tokenised; a reward model's head starts at zero on both sides.
"""

from __future__ import annotations

from typing import Any

import job as jobs
from datasets import Dataset
from peft import LoraConfig, load_peft_weights, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer


class GivenIds(DPOTrainer):
    """Takes its data as it is."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


def dpo(job: dict[str, Any], tokenizer: Any) -> Any:
    return GivenIds(
        model=AutoModelForCausalLM.from_pretrained(job["base"]),
        args=DPOConfig(**jobs.trainer_settings(job)),
        train_dataset=Dataset.from_list(job["pairs"]),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **job["method_settings"]),
    )


def reward(job: dict[str, Any], tokenizer: Any) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(job["base"], num_labels=1)
    model.config.pad_token_id = job["pad"]
    rows = [
        {side: p["prompt_ids"] + p[side] for side in ("chosen_ids", "rejected_ids")}
        for p in job["pairs"]
    ]
    config = LoraConfig(task_type="SEQ_CLS", modules_to_save=["score"], **job["method_settings"])
    return RewardTrainer(
        model=model,
        args=RewardConfig(**jobs.trainer_settings(job)),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=config,
    )


def main() -> None:
    job = jobs.read()
    tokenizer = jobs.load_tokenizer(job)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(job["pad"])
    trainer = {"dpo": dpo, "reward": reward}[job["objective"]](job, tokenizer)
    set_peft_model_state_dict(trainer.model, load_peft_weights(job["adapter"], device="cpu"))
    for name, parameter in trainer.model.named_parameters():
        if ".score." in name:
            parameter.data.zero_()
    jobs.train(job, trainer, ["trl", "peft", "transformers", "torch"])


if __name__ == "__main__":
    main()
