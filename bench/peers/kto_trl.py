"""TRL's KTO loss and gradient on given token ids. Usage: kto_trl.py JOB RESULT.

The job, a JSON file:

    policy, reference   folders of two causal language models, which are read in double precision
    rows                [{"prompt_ids", "completion_ids", "KL_completion_ids", "label"}], one batch
    beta, desirable_weight, undesirable_weight   TRL's settings

The result, a safetensors file: loss, and PARAMETER for every gradient. The fused output layer is
replaced as in dpo_trl.py.
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
from transformers import AutoModelForCausalLM
from trl import KTOConfig, KTOTrainer


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(job[part], dtype=torch.float64)
        for part in ("policy", "reference")
    )
    with tempfile.TemporaryDirectory() as folder:
        config = KTOConfig(
            output_dir=folder, beta=job["beta"], desirable_weight=job["desirable_weight"],
            undesirable_weight=job["undesirable_weight"], bf16=False, use_cpu=True,
            gradient_checkpointing=False, report_to=[], per_device_train_batch_size=2,
        )  # fmt: skip
        rows = Dataset.from_dict(
            {"prompt": ["a", "b"], "completion": ["b", "c"], "label": [True, False]}
        )
        trainer = KTOTrainer(
            model=policy, ref_model=reference, args=config, train_dataset=rows,
            processing_class=tokenizer(),
        )  # fmt: skip
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(job["rows"]))
        loss.backward()
        found = {
            name: p.grad.contiguous().clone()
            for name, p in trainer.model.named_parameters()
            if p.grad is not None
        }
        save_file({"loss": loss.detach().reshape(1).clone(), **found}, sys.argv[2])


if __name__ == "__main__":
    main()
