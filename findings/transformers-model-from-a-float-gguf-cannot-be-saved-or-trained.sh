#!/usr/bin/env bash
# A model that transformers loads from a GGUF file of plain 32-bit floats counts as quantized for good.
#
# Version: transformers 5.23.0, gguf 0.19.0, accelerate 1.15.0, torch 2.13.0 (CPU), a random Llama of one layer.
# Behaviour: from_pretrained(gguf_file=...) turns every tensor into float32 and builds ordinary torch Linear
#   layers. All the same save_pretrained, half and Trainer refuse the model as quantized, and dequantize() says
#   that it is not implemented. With quantization_config=GgufConfig(dequantize=True) the weights are the same to
#   the bit and everything works.
# A good guess: loading from GGUF means dequantizing, as the progress bar says; what comes out is a float model.
# Why it matters: to adapt a model that one has as GGUF only, one loads it, and all looks finished; the
#   refusal comes when the trainer is built, or after a LoRA has been merged and is to be saved.
# Seen:
#   layers: Linear torch.float32 weights equal: True
#   save_pretrained  ValueError; with dequantize=True: works
#   Trainer          ValueError; with dequantize=True: works
#   half             ValueError; with dequantize=True: works
#   dequantize       NotImplementedError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0 numpy==2.4.6
cd "$work"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY' 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
import sys
from collections.abc import Callable

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, GgufConfig, Trainer, TrainingArguments

WIDTH, INNER, VOCABULARY, HEADS = 32, 64, 48, 4
SHAPES = {
    "token_embd": (VOCABULARY, WIDTH),
    "output": (VOCABULARY, WIDTH),
    "output_norm": (WIDTH,),
    "blk.0.attn_norm": (WIDTH,),
    "blk.0.ffn_norm": (WIDTH,),
    "blk.0.ffn_gate": (INNER, WIDTH),
    "blk.0.ffn_up": (INNER, WIDTH),
    "blk.0.ffn_down": (WIDTH, INNER),
} | {f"blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}


def write(path: str) -> None:
    file = gguf.GGUFWriter(path, "llama")
    file.add_block_count(1)
    file.add_context_length(64)
    file.add_embedding_length(WIDTH)
    file.add_feed_forward_length(INNER)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_vocab_size(VOCABULARY)
    file.add_rope_dimension_count(WIDTH // HEADS)
    random = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        file.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def attempt(action: Callable[[], object]) -> str:
    try:
        action()
    except (ValueError, NotImplementedError) as error:
        return type(error).__name__
    return "works"


def trainer(model: torch.nn.Module) -> Trainer:
    return Trainer(model=model, args=TrainingArguments(output_dir="out", use_cpu=True, report_to=[]))


write("tiny.gguf")
plain = AutoModelForCausalLM.from_pretrained(".", gguf_file="tiny.gguf")
asked = AutoModelForCausalLM.from_pretrained(
    ".", gguf_file="tiny.gguf", quantization_config=GgufConfig(dequantize=True)
)
kinds = {type(module).__name__ for module in plain.modules() if isinstance(module, torch.nn.Linear)}
equal = all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), asked.state_dict().values()))
print("layers:", *kinds, plain.dtype, "weights equal:", equal)
seen = {
    "save_pretrained": [attempt(lambda m=m: m.save_pretrained("saved")) for m in (plain, asked)],
    "Trainer": [attempt(lambda m=m: trainer(m)) for m in (plain, asked)],
    "half": [attempt(m.half) for m in (plain, asked)],
    "dequantize": [attempt(plain.dequantize)],
}
for name, results in seen.items():
    print(f"{name:16}", "; with dequantize=True: ".join(results))
stated = {
    "save_pretrained": ["ValueError", "works"],
    "Trainer": ["ValueError", "works"],
    "half": ["ValueError", "works"],
    "dequantize": ["NotImplementedError"],
}
if not (kinds == {"Linear"} and equal and seen == stated):
    sys.exit(f"no longer as stated: Linear layers, equal weights, {stated}")
PY
