#!/usr/bin/env bash
# PEFT with ensure_weight_tying=True merges a LoRA on a tied output head into the weights twice.
#
# Version: peft 0.21.2, transformers 5.23.0, torch 2.13.0 (CPU), a random Llama of two layers.
# Behaviour: where the head is tied to the embedding, PEFT warns at a LoRA on it and advises
#   ensure_weight_tying=True. With it, head and embedding carry the same A and B, and merge_and_unload() adds
#   their product once for each of the two layers, into the one matrix that both share. Without it the change is
#   added once, so that the embedding gets it too, which the adapter never meant.
# A good guess: the advised setting is the one that merges rightly; a tied weight is changed once.
# Why it matters: the merged model is not the one that was evaluated, and merging raises no error. Small models
#   tie their embeddings, and LoRA on the head is a usual choice for new tokens. Compare logits before and
#   after each merge; merge one side by hand, or untie the model first.
# Seen:
#   ensure_weight_tying  change of the weight / (B A * scale)  largest change of a logit by merging, of
#   False                1.0000                                0.344, 0.762
#   True                 2.0000                                0.484, 0.757
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

TOKENS = torch.arange(1, 9)[None]


def merge(tying: bool) -> tuple[float, float, float]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    base = LlamaForCausalLM(config).eval()
    before = base.lm_head.weight.detach().clone()
    lora = LoraConfig(r=4, lora_alpha=4, target_modules=["lm_head"], ensure_weight_tying=tying)
    model = get_peft_model(base, lora).eval()
    head = model.base_model.model.lm_head
    torch.nn.init.normal_(head.lora_B["default"].weight, std=0.05)
    with torch.no_grad():
        change = head.get_delta_weight("default").clone()
        adapted = model(TOKENS).logits
        merged = model.merge_and_unload()
        assert merged.lm_head.weight is merged.model.embed_tokens.weight
        factor = ((merged.lm_head.weight - before) * change).sum() / (change * change).sum()
        return factor.item(), (merged(TOKENS).logits - adapted).abs().max().item(), adapted.abs().max().item()


print("ensure_weight_tying  change of the weight / (B A * scale)  largest change of a logit by merging, of")
factors = []
for tying in (False, True):
    factor, off, size = merge(tying)
    factors.append(round(factor, 4))
    print(f"{tying!s:20} {factor:<37.4f} {off:.3f}, {size:.3f}")
    if off < 0.01:
        sys.exit("no longer as stated: the merged model computes what the adapter computed")
if factors != [1.0, 2.0]:
    sys.exit("no longer as stated: factors 1 and 2")
PY
