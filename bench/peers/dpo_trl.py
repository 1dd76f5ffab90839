"""TRL's DPO loss and gradient on given token ids. Usage: dpo_trl.py JOB RESULT.

The job, a JSON file:

    policy, reference   folders of two causal language models, which are read in double precision
    pairs               [{"prompt_ids": [int], "chosen_ids": [int], "rejected_ids": [int]}], one batch
    beta, label_smoothing, losses   TRL's settings; the losses one after another

The result, a safetensors file: LOSS/loss, and LOSS/PARAMETER for every gradient.

TRL's fused output layer rounds to float32, whatever it is given. Its place is taken by the same
log-softmax in double precision, so that what is compared is the loss and not the rounding.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer
from trl.trainer import utils


class ExactHead:
    """Log-probabilities of labels, by torch alone."""

    @staticmethod
    def apply(hidden, weight, bias, labels, *_):
        logits = torch.nn.functional.linear(hidden, weight, bias)
        found = torch.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0]
        logged = torch.zeros_like(found)  # entropy and the like, which are in no loss
        return found, logged, logged, logged, logged.bool()


utils._ChunkedLogProbFunction = ExactHead


def tokenizer() -> PreTrainedTokenizerFast:
    """One that the trainer can be made with; the batch below brings its own ids."""
    plain = Tokenizer(models.WordLevel({"<pad>": 0, "a": 1, "b": 2, "c": 3}, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="c")


def trainer(job: dict, loss: str, folder: str) -> DPOTrainer:
    """TRL's own trainer with nothing that would change the figures: no dropout, no half precision."""
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(job[part], dtype=torch.float64)
        for part in ("policy", "reference")
    )
    config = DPOConfig(
        output_dir=folder, beta=job["beta"], loss_type=loss, label_smoothing=job["label_smoothing"],
        bf16=False, gradient_checkpointing=False, report_to=[], use_cpu=True,
    )  # fmt: skip
    rows = Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    return DPOTrainer(
        model=policy, ref_model=reference, args=config, train_dataset=rows, processing_class=tokenizer()
    )


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    found: dict[str, torch.Tensor] = {}
    for loss in job["losses"]:
        with tempfile.TemporaryDirectory() as folder:
            one = trainer(job, loss, folder)
            batch = one.data_collator(job["pairs"])
            total = one.compute_loss(one.model, batch)
            total.backward()
            found[f"{loss}/loss"] = total.detach().reshape(1).clone()
            for name, parameter in one.model.named_parameters():
                if parameter.grad is not None:
                    found[f"{loss}/{name}"] = parameter.grad.contiguous().clone()
    save_file(found, sys.argv[2])


if __name__ == "__main__":
    main()
