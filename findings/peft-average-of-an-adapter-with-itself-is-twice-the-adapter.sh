#!/usr/bin/env bash
# PEFT's "linear" combination of LoRA adapters is not linear: half an adapter plus half of it again is two.
#
# Version: peft 0.21.2, transformers 5.23.0, torch 2.13.0 (CPU), a random Llama of one layer.
# Behaviour: add_weighted_adapter(..., combination_type="linear") adds the A matrices and the B matrices apart,
#   each times the root of its weight, and multiplies the sums. The change of weights is then the weighted sum
#   plus cross terms (B1 A2 and B2 A1), which no weight removes. combination_type="cat" gives the true sum.
# A good guess: the name, the weights and "model soups" all say w1 * change 1 + w2 * change 2.
# Why it matters: for two unlike adapters the cross terms are as large as the average itself; for two
#   checkpoints of one training, the case for averaging, they double the strength. Take "cat" (rank grows to
#   the sum of ranks) or "svd".
# Seen:
#   0.5 x + 0.5 x, linear: 2.0 times x
#   0.5 x + 0.5 x, cat:    1.0 times x
#   0.5 x + 0.5 y, linear: error of 100%
#   0.5 x + 0.5 y, cat:    error of 0%
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 peft==0.21.2 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY' 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
)
lora = LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj"], init_lora_weights=False)
model = get_peft_model(LlamaForCausalLM(config), lora, adapter_name="x")
model.add_adapter("y", lora)
layer = model.base_model.model.model.layers[0].self_attn.q_proj


def mixed(first: str, second: str, kind: str) -> torch.Tensor:
    name = first + second + kind
    model.add_weighted_adapter([first, second], [0.5, 0.5], name, combination_type=kind)
    return layer.get_delta_weight(name).detach()


x, y = (layer.get_delta_weight(name).detach() for name in "xy")
seen = {}
for kind in ("linear", "cat"):
    twice = mixed("x", "x", kind)
    seen[kind] = (twice / x).median().item()
    print(f"0.5 x + 0.5 x, {kind + ':':7} {seen[kind]:.1f} times x")
wanted = 0.5 * x + 0.5 * y
for kind in ("linear", "cat"):
    error = ((mixed("x", "y", kind) - wanted).norm() / wanted.norm()).item()
    seen["error " + kind] = error
    print(f"0.5 x + 0.5 y, {kind + ':':7} error of {error:.0%}")
if not (abs(seen["linear"] - 2) < 1e-3 and abs(seen["cat"] - 1) < 1e-3):
    sys.exit("no longer as stated: linear gives twice the adapter, cat the adapter")
if not (seen["error linear"] > 0.5 and seen["error cat"] < 1e-3):
    sys.exit("no longer as stated: linear is off by more than half for unlike adapters, cat is exact")
PY
