#!/usr/bin/env bash
# llama.cpp applies a LoRA whose alpha is 0 at full strength, not at none.
#
# Version: llama.cpp "v0.5.0" as built in the npm package @node-llama-cpp/linux-x64 3.22.1 (glibc, x86-64; its
#   library is called with ctypes, no Node is run), gguf 0.19.0, numpy 2.4.6; base and adapter random.
# Behaviour: the scale of an adapter is alpha / rank, but alpha 0 counts as "not given" and gives 1. The same A
#   and B of rank 8 with alpha 0 and with alpha 8 give logits that are equal to the bit.
# A good guess: alpha 0 divided by rank 8 is 0, so the adapter does nothing, as it does in PEFT.
# Why it matters: alpha is the knob for strength, and a sweep that goes down to 0, or an adapter switched off by
#   its alpha, is exported into one that works fully. To switch off, leave the adapter out or set its scale when
#   loading.
# Seen:
#   alpha 0, rank 8: moves the logits by 0.4273 at most
#   alpha 4, rank 8: moves the logits by 0.2320 at most
#   alpha 8, rank 8: moves the logits by 0.4273 at most
#   alpha 0 equals alpha 8 to the bit: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet gguf==0.19.0 numpy==2.4.6
cd "$work"
npm pack --silent @node-llama-cpp/linux-x64@3.22.1 >/dev/null
tar -xzf node-llama-cpp-linux-x64-3.22.1.tgz
"$work/venv/bin/python" - package/bins/linux-x64 <<'PY'
import ctypes as c
import sys
from pathlib import Path

import gguf
import numpy as np

WIDTH, INNER, VOCABULARY, HEADS, RANK = 32, 64, 48, 4, 8
LAYER = "blk.0.ffn_down.weight"
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
random = np.random.default_rng(0)


def finish(file: gguf.GGUFWriter, tensors: dict[str, np.ndarray]) -> None:
    for name, tensor in tensors.items():
        file.add_tensor(name, tensor)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def normal(*shape: int) -> np.ndarray:
    return (0.3 * random.standard_normal(shape)).astype(np.float32)


base = gguf.GGUFWriter("base.gguf", "llama")
base.add_block_count(1)
base.add_context_length(512)
base.add_embedding_length(WIDTH)
base.add_feed_forward_length(INNER)
base.add_head_count(HEADS)
base.add_head_count_kv(HEADS)
base.add_layer_norm_rms_eps(1e-5)
base.add_vocab_size(VOCABULARY)
base.add_rope_dimension_count(WIDTH // HEADS)
base.add_tokenizer_model("none")
finish(base, {f"{name}.weight": normal(*shape) for name, shape in SHAPES.items()})
factors = {f"{LAYER}.lora_a": normal(RANK, INNER), f"{LAYER}.lora_b": normal(WIDTH, RANK)}
for alpha in (0, 4, 8):
    adapter = gguf.GGUFWriter(f"alpha-{alpha}.gguf", "llama")
    adapter.add_type("adapter")
    adapter.add_string("adapter.type", "lora")
    adapter.add_float32("adapter.lora.alpha", float(alpha))
    finish(adapter, factors)

# Parameters are passed through as they come, so only their size has to be large enough.
Parameters = type("Parameters", (c.Structure,), {"_fields_": [("bytes", c.c_char * 1024)]})
POINTERS = ("token", "embd", "pos", "n_seq_id", "seq_id", "logits")
Batch = type(
    "Batch", (c.Structure,), {"_fields_": [("n_tokens", c.c_int32), *((name, c.c_void_p) for name in POINTERS)]}
)
folder = Path(sys.argv[1]).resolve()
_, ggml, llama = (
    c.CDLL(str(folder / name), mode=c.RTLD_GLOBAL)
    for name in ("libggml-base.so", "libggml.v0.5.0.so", "libllama.v0.5.0.so")
)


def call(library: c.CDLL, name: str, result: type | None, *arguments: tuple) -> object:
    """Call a C function with (type, value) pairs."""
    function = getattr(library, name)
    function.restype, function.argtypes = result, [kind for kind, _ in arguments]
    return function(*(value for _, value in arguments))


Log = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)
quiet = Log(lambda *_: None)
call(llama, "llama_log_set", None, (Log, quiet), (c.c_void_p, None))
call(ggml, "ggml_backend_load_all_from_path", None, (c.c_char_p, str(folder).encode()))
settings = call(llama, "llama_model_default_params", Parameters)
model = call(
    llama, "llama_model_load_from_file", c.c_void_p, (c.c_char_p, b"base.gguf"), (Parameters, settings)
)
assert model, "the base does not load"


def logits(adapter: str | None) -> np.ndarray:
    settings = call(llama, "llama_context_default_params", Parameters)
    made = call(llama, "llama_init_from_model", c.c_void_p, (c.c_void_p, model), (Parameters, settings))
    context = (c.c_void_p, made)
    if adapter:
        path = (c.c_char_p, adapter.encode())
        lora = call(llama, "llama_adapter_lora_init", c.c_void_p, (c.c_void_p, model), path)
        assert lora, "the adapter does not load"
        adapters, scales = (c.c_void_p * 1)(lora), (c.c_float * 1)(1.0)
        status = call(
            llama,
            "llama_set_adapters_lora",
            c.c_int32,
            context,
            (c.POINTER(c.c_void_p), adapters),
            (c.c_size_t, 1),
            (c.POINTER(c.c_float), scales),
        )
        assert status == 0, status
    tokens = (c.c_int32 * 4)(1, 2, 3, 4)
    batch = call(llama, "llama_batch_get_one", Batch, (c.POINTER(c.c_int32), tokens), (c.c_int32, 4))
    assert call(llama, "llama_decode", c.c_int32, context, (Batch, batch)) == 0
    last = call(llama, "llama_get_logits_ith", c.POINTER(c.c_float), context, (c.c_int32, -1))
    return np.ctypeslib.as_array(last, (VOCABULARY,)).copy()


plain = logits(None)
found = {alpha: logits(f"alpha-{alpha}.gguf") for alpha in (0, 4, 8)}
for alpha, values in found.items():
    print(f"alpha {alpha}, rank {RANK}: moves the logits by {np.abs(values - plain).max():.4f} at most")
equal = bool((found[0] == found[8]).all())
print("alpha 0 equals alpha 8 to the bit:", equal)
if not (equal and np.abs(found[0] - plain).max() > 0.1 and not (found[4] == found[8]).all()):
    sys.exit("no longer as stated: alpha 0 is alpha 8, alpha 4 is not")
PY
