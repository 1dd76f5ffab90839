"""GRPO beside TRL, in one run on one machine: 8 prompts, 8 answers to each, 64 tokens at most.

    make bench-align
    python -m bench.align_grpo --repeats 1 --steps 2 --tokens 16

Both sides get the same prompts in the same batches, the same fresh LoRA (r=16, all linear), float32,
the same optimiser and the same reward; all else is TRL's default. What is timed is a whole step:
drawing, scoring, and learning. Answers are drawn at temperature 1 by each side itself and may end by
themselves, so speed is in drawn tokens per second. Losses and gradients are held against TRL's on the
same ids by tests/objectives/test_policy_gradient.py. The two take turns; medians count.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from bench import report
from bench.align import MEMORY, Side, take_turns
from bench.examples import LORA, OPTIMISER
from bench.train import PEER_PYTHON, PEERS, ROOT, load_base, run

FOLDER = ROOT / "build" / "bench" / "align" / "grpo"
PROMPTS, ANSWERS, TOKENS = 8, 8, 64
STEPS = 4
LEARNING_RATE = 1e-5
WANTED = 5.0


def main() -> int:
    args = arguments()
    FOLDER.mkdir(parents=True, exist_ok=True)
    base, _ = load_base(args.base)
    content = {
        "base": base, "method": "lora", "method_settings": LORA, "adapter": str(FOLDER / "initial"),
        "seed": 0, "prompts": prompts(args.steps * PROMPTS), "answers": ANSWERS, "tokens": args.tokens,
        "batches": [list(range(i * PROMPTS, (i + 1) * PROMPTS)) for i in range(args.steps)],
        "learning_rate": LEARNING_RATE, **OPTIMISER,
    }  # fmt: skip
    sides = compare(content, args)
    print(f"machine    {report.machine()}")
    print("\n".join(told(sides, args)), flush=True)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.align_grpo", description="GRPO beside TRL.")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side, taking turns")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of an answer at most")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--python", default=str(PEER_PYTHON), help="the peer's interpreter")
    return parser.parse_args()


def prompts(count: int) -> list[str]:
    """Sums in words, no two alike."""
    return [
        f"A farmer has {i + 3} boxes with {i % 5 + 2} apples in each. How many apples are there? "
        "Think step by step, then give the number."
        for i in range(count)
    ]


def compare(content: dict[str, Any], args: argparse.Namespace) -> list[Side]:
    """Run both sides in turns on one job."""
    path = FOLDER / "job.json"
    path.write_text(json.dumps(content | {"out": str(FOLDER / "unused")}))
    run([args.python, str(PEERS / "initial.py"), str(path)], FOLDER / "initial.log")
    peer = Side("trl", [args.python, str(PEERS / "grpo_trl.py")])
    ours = Side("rung", [sys.executable, "-m", "bench.align_grpo_rung"])
    take_turns((peer, ours), content, FOLDER, args.repeats)
    for side in (peer, ours):
        for found in side.results:
            found["drawn"] = sum(found["answer_tokens"]) * PROMPTS * ANSWERS
            found["speed"] = found["drawn"] / found["seconds"]
    return [peer, ours]


def told(sides: list[Side], args: argparse.Namespace) -> list[str]:
    """Lines about the comparison."""
    peer, ours = sides
    lines = [
        f"grpo: LoRA r=16, {PROMPTS} prompts x {ANSWERS} answers x {args.tokens} tokens at most, "
        f"{args.steps} steps"
    ]
    lines += [
        f"  {side.name:<5} {side.median('speed'):7.1f} drawn tokens/s, "
        f"{side.median('seconds'):.1f} s, {side.median('drawn'):.0f} tokens drawn, "
        f"peak {side.median('peak_bytes') / 1e9:.2f} GB"
        for side in sides
    ]
    speed = ours.median("speed") / peer.median("speed")
    memory = ours.median("peak_bytes") / peer.median("peak_bytes")
    lines.append(f"RATIO grpo_vs_trl {speed:.2f}   ({WANTED:g} wanted)")
    lines.append(f"RATIO grpo_align_memory {memory:.2f}   (at most {MEMORY:g} wanted)")
    return lines


if __name__ == "__main__":
    sys.exit(main())
