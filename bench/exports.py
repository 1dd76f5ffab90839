"""Exports run by llama.cpp: how far its log-probabilities are from the model's, method by method.

    make bench-exports                                     # about ten minutes on two cores
    make bench-exports ARGS="--only lora --bases smollm2-135m"

Each model is tuned for a few steps on SmolLM2-135M (architecture llama) and on a small qwen2 of
random weights with the same tokenizer, written in float32 and proven by `rung export --prove
llama.cpp`: the same ids of 20 prompts, log-probabilities of 20 greedy answers, and the greedy answers
themselves. rsLoRA with a pattern of alpha comes as PEFT writes it. It fails where one is not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from bench import report
from bench.climb import Home
from bench.llamacpp import library

ROOT = Path(__file__).resolve().parent.parent
REAL = "smollm2-135m"
SMALL = "qwen2"
STEPS = ("--limit", "48", "--steps", "6", "--lr", "0.002", "--dtype", "float32", "--device", "cpu")
# By what is shown: the method that is tuned, and the formats it is written in.
EXPORTS = {
    "lora": ("lora", ("gguf", "gguf-lora")),
    "rslora": ("lora", ("gguf", "gguf-lora")),
    "ia3": ("ia3", ("gguf",)),
    "last_layers": ("last_layers", ("gguf",)),
    "steering": ("steering", ("control-vector",)),
}
PATTERN = {"q_proj": 4.0, "down_proj": 48.0}  # alpha by module, beside the 32 of all others
MOODS = (("calm", "furious"), ("kind", "cruel"), ("happy", "sad"), ("clear", "vague"))


def small(folder: Path) -> Path:
    """A qwen2 of random weights with the real base's tokenizer."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from rung import bases

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(bases.resolve(REAL).path)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        initializer_range=0.1, eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def data(folder: Path) -> dict[str, Path]:
    """Rows of replies and of pairs, written by rule."""
    replies, pairs = [], []
    for number in range(48):
        good, bad = MOODS[number % len(MOODS)]
        asked = f"How does room {number} feel today?"
        replies.append({"prompt": asked, "completion": f"Room {number} feels {good} and bright."})
        chosen, rejected = f"It feels {good}, very {good}.", f"It feels {bad}, very {bad}."
        pairs.append({"prompt": asked, "chosen": chosen, "rejected": rejected})
    found = {}
    for name, rows in (("replies", replies), ("pairs", pairs)):
        found[name] = folder / f"{name}.jsonl"
        found[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return found


def rung(home: Path, *words: str) -> None:
    """Run a verb. Raises RuntimeError with its last line."""
    environment = os.environ | {"RUNG_HOME": str(home)}
    if "--prove" in words and "RUNG_LLAMA_CPP" not in environment:
        environment["RUNG_LLAMA_CPP"] = str(library())
    done = subprocess.run(
        [sys.executable, "-m", "rung", *words], cwd=home, env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["?"])[-1])


def tuned(home: Path, what: str, base: str, rows: dict[str, Path]) -> str:
    """Tune the model of one line of the table -> its name."""
    method, name = EXPORTS[what][0], f"{Path(base).name}-{what}"
    source = rows["pairs" if what == "steering" else "replies"]
    own = ("--steered", "1", "--dtype", "float32", "--device", "cpu") if what == "steering" else STEPS
    rung(home, "tune", name, "--method", method, "--base", base, "--data", str(source), *own)
    if what != "rslora":
        return name
    folder = home / f"{name}-peft"
    rung(home, "export", name, str(folder), "--to", "peft")
    config = folder / "adapter_config.json"
    said = json.loads(config.read_text(encoding="utf-8"))
    said |= {"use_rslora": True, "alpha_pattern": PATTERN, "lora_alpha": 8}
    config.write_text(json.dumps(said), encoding="utf-8")
    rung(home, "add", f"{name}-as-peft", str(folder), "--base", base)
    return f"{name}-as-peft"


def proven(home: Path, name: str, to: str) -> str:
    """Write a model -> what its card says of llama.cpp."""
    folder = home / f"{name}-{to}"
    rung(home, "export", name, str(folder), "--to", to, "--dtype", "float32", "--prove", "llama.cpp")
    card = (folder / "README.md").read_text(encoding="utf-8")
    for file in folder.glob("*.gguf"):
        file.unlink()  # half a gigabyte each
    return re.findall(r"^- (llama\.cpp: .*)$", card, re.MULTILINE)[-1]


def main() -> int:
    args = arguments()
    print(f"machine    {report.machine()}", flush=True)
    faults = []
    with Home() as home:
        rows = data(home)
        bases = {REAL: REAL, SMALL: str(home / SMALL)}
        if SMALL in args.bases:
            small(home / SMALL)
        for base in args.bases:
            for what in args.only or EXPORTS:
                try:
                    name = tuned(home, what, bases[base], rows)
                    for to in EXPORTS[what][1]:
                        print(f"  {base:14} {what:12} {to:15} {proven(home, name, to)}", flush=True)
                except RuntimeError as fault:
                    faults.append(f"{base} {what}: {fault}")
                    print(f"FAULT {faults[-1]}", flush=True)
    return int(bool(faults))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.exports", description="Exports run by llama.cpp.")
    parser.add_argument("--only", action="append", choices=list(EXPORTS), help="repeat for several")
    parser.add_argument("--bases", nargs="+", choices=[REAL, SMALL], default=[REAL, SMALL])
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
