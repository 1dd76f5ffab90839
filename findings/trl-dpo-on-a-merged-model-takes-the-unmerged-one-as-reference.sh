#!/usr/bin/env bash
# DPO on a model that was merged in memory starts from the wrong reference: the base from before the merge.
#
# Version: trl 1.16.0, transformers 5.23.0, peft 0.21.2, datasets 5.2.0, accelerate 1.15.0, torch 2.13.0 (CPU).
# Behaviour: DPOTrainer without ref_model does not copy the model that it is given. It loads one from the path
#   in the model's config, and merge_and_unload() leaves the base's path there. The reference is the base, so
#   the loss of step 0 is not ln 2 and the margins are not 0. The same weights, saved and loaded, give ln 2.
# A good guess: the reference is the model as it stands when training begins, as DPO's paper has it.
# Why it matters: "train with LoRA, merge, go on with DPO" is the usual order. The penalty then pulls back
#   towards the model before fine-tuning, and rewards are credited with what the first stage learnt. Pass
#   ref_model, or save the merged model and load it. Step 0 away from ln 2 is the sign. (A merged model also
#   comes back frozen; without requires_grad_ the training fails, which at least is loud.)
# Seen:
#   merged in memory: loss 0.5589 (ln 2 is 0.6931), margin +0.3209, reference: the base
#   saved and loaded: loss 0.6931 (ln 2 is 0.6931), margin +0.0000, reference: the model
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0 \
    datasets==5.2.0 accelerate==1.15.0 numpy==2.4.6
cd "$work"
HF_HOME="$work/hf" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY' 2>"$work/log" >"$work/out" ||
import math
import sys

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

WORDS = ["<unk>", "<s>", "</s>", "<pad>", *"the cat dog sat ran on mat far away".split()]
WEIGHT = "model.layers.0.self_attn.q_proj.weight"
raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
raw.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
)
rows = Dataset.from_list(
    [
        {"prompt": "the cat", "chosen": " sat on the mat", "rejected": " ran far away"},
        {"prompt": "the dog", "chosen": " ran far away", "rejected": " sat on the mat"},
    ]
)
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=len(WORDS),
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=3,
    initializer_range=0.2,
)
LlamaForCausalLM(config).save_pretrained("base")
lora = LoraConfig(r=4, lora_alpha=256, target_modules=["v_proj", "q_proj"], init_lora_weights=False)
get_peft_model(LlamaForCausalLM.from_pretrained("base"), lora).save_pretrained("adapter")


def base() -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained("base")


def first_step(model: LlamaForCausalLM) -> tuple[float, float, str]:
    """Loss and margin of step 0, and which model the reference is."""
    weight = model.state_dict()[WEIGHT].clone()
    arguments = DPOConfig(
        output_dir="trained",
        max_steps=1,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = DPOTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    reference = trainer.ref_model.state_dict()[WEIGHT].clone()
    trainer.train()
    logged = trainer.state.log_history[0]
    which = "the model" if torch.equal(reference, weight) else "another"
    if torch.equal(reference, base().state_dict()[WEIGHT]):
        which = "the base"
    return float(logged["loss"]), float(logged["rewards/margins"]), which


merged = PeftModel.from_pretrained(base(), "adapter").merge_and_unload()
merged.requires_grad_(True)
merged.save_pretrained("merged")
seen = {
    "merged in memory": first_step(merged),
    "saved and loaded": first_step(LlamaForCausalLM.from_pretrained("merged")),
}
for name, (loss, margin, which) in seen.items():
    print(f"SEEN {name}: loss {loss:.4f} (ln 2 is {math.log(2):.4f}), margin {margin:+.4f}, reference: {which}")
memory, disk = seen.values()
if not (memory[2] == "the base" and abs(memory[0] - math.log(2)) > 0.01):
    sys.exit("no longer as stated: merged in memory, the reference is the base")
if not (disk[2] == "the model" and abs(disk[0] - math.log(2)) < 1e-4):
    sys.exit("no longer as stated: saved and loaded, the reference is the model")
PY
    { cat "$work/out" "$work/log" >&2; exit 1; }
sed -n 's/^SEEN //p' "$work/out"
