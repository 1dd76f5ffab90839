"""Six adapters of six kinds made by TRL's and transformers' own trainers, each in its default folder.

    python adapters_made.py BASE FOLDER

Each is trained in FOLDER/NAME with no output folder named, read again with PEFT, and asked; what it
answered is written to FOLDER/answers.json, by its checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

ASKED = [[{"role": "user", "content": text}] for text in ("Hello there", "What is it?", "Say x.")]
TOKENS = 12  # drawn of each answer
STEPS = 3
CALL = "<|im_start|>assistant\n"  # calls activated LoRA, as the template opens every answer
TASK = {"task_type": "CAUSAL_LM"}


def main() -> None:
    base, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    warnings.simplefilter("ignore")
    tokenizer = AutoTokenizer.from_pretrained(base)
    answers = {}
    for name, make in KINDS.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        os.chdir(place)
        torch.manual_seed(0)
        make(str(base), tokenizer)
        (checkpoint,) = place.glob("trainer_output/checkpoint-*")
        answers[str(checkpoint)] = answered(base, checkpoint, tokenizer)
        print(name, checkpoint.relative_to(folder), flush=True)
    (folder / "answers.json").write_text(json.dumps(answers))


def chats() -> list[list[dict[str, str]]]:
    said = [("Name a bird", "wren"), ("Name a tree", "oak"), ("Name a fish", "carp")] * 4
    return [
        [{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in said
    ]  # fmt: skip


def sft(config: Any) -> Callable[[str, Any], None]:
    def make(base: str, tokenizer: Any) -> None:
        from trl import SFTConfig, SFTTrainer

        rows = [{"messages": m} for m in chats()]
        SFTTrainer(
            base, SFTConfig(**common()), train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer, peft_config=config,
        ).train()  # fmt: skip

    return make


def dpo(config: Any) -> Callable[[str, Any], None]:
    def make(base: str, tokenizer: Any) -> None:
        from trl import DPOConfig, DPOTrainer

        pairs = [
            {"prompt": m[:1], "chosen": m[1:], "rejected": [{"role": "assistant", "content": "no"}]}
            for m in chats()
        ]
        DPOTrainer(
            base, args=DPOConfig(**common()), train_dataset=Dataset.from_list(pairs),
            processing_class=tokenizer, peft_config=config,
        ).train()  # fmt: skip

    return make


def plain(config: Any) -> Callable[[str, Any], None]:
    """With transformers' Trainer around PEFT's model."""

    def make(base: str, tokenizer: Any) -> None:
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        texts = [tokenizer.apply_chat_template(m, tokenize=False) for m in chats()]
        rows = [tokenizer(t, padding="max_length", max_length=96, truncation=True) for t in texts]
        rows = [{**r, "labels": r["input_ids"]} for r in rows]
        transformers.Trainer(
            model, transformers.TrainingArguments(**common()), train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        ).train()  # fmt: skip

    return make


def common() -> dict[str, Any]:
    return {
        "max_steps": STEPS, "per_device_train_batch_size": 4, "learning_rate": 0.05,
        "report_to": "none", "use_cpu": True, "bf16": False, "fp16": False, "logging_strategy": "no",
        "disable_tqdm": True,
    }  # fmt: skip


def lora(**settings: Any) -> Any:
    return peft.LoraConfig(**TASK, r=4, target_modules=["q_proj", "down_proj"], **settings)


def activated(base: str, tokenizer: Any) -> None:
    ids = tokenizer.encode(CALL, add_special_tokens=False)
    sft(lora(alora_invocation_tokens=ids))(base, tokenizer)


KINDS: dict[str, Callable[[str, Any], None]] = {
    "sft-lora": sft(lora(lora_dropout=0.1, bias="none")),
    "sft-activated": activated,
    "dpo-dora": dpo(lora(use_dora=True)),
    "sft-lokr": sft(peft.LoKrConfig(**TASK, r=4, target_modules=["q_proj", "down_proj"])),
    "trainer-ia3": plain(
        peft.IA3Config(
            **TASK, target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
        )
    ),
    "trainer-prompt": plain(peft.PromptTuningConfig(**TASK, num_virtual_tokens=4)),
}


@torch.no_grad()
def answered(base: Path, checkpoint: Path, tokenizer: Any) -> list[str]:
    """What PEFT answers, drawn greedily."""
    model = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), checkpoint
    ).eval()
    texts = []
    for messages in ASKED:
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        new = out[0, ids.shape[1] :] if out.shape[1] > ids.shape[1] else out[0]
        texts.append(tokenizer.decode(new, skip_special_tokens=True))
    return texts


if __name__ == "__main__":
    main()
