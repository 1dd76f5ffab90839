"""Training speed beside the peers, in one run on one machine.

    make bench-train                                    # all three comparisons
    make bench-train ARGS="--only train_lora --repeats 1"
    make bench-train ARGS="--record"                    # adds the figures to bench/RESULTS.md

Both sides get the same token ids in the same batches, the same initial adapter, float32, the same
optimiser and as many threads as they choose. They take turns, each run in a process of its own; the
medians count. Tokens are those of the examples, without padding. The final loss is
scored by PEFT for both. A comparison whose final losses differ by over 1% fails.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import report
from bench.ceiling import FORMULA, flop, matmul_ceiling
from bench.examples import COMPARISONS, Comparison, job

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "bench" / "peers"
PEER_PYTHON = ROOT / "bench" / ".peers" / "bin" / "python"
LOSS_TOLERANCE = 0.01
# The C library gives big blocks back to the system at once and pays a page fault for every page when it
# needs them again, which is dear in virtual machines. "keep" lets both sides hold on to them.
ALLOCATORS = {
    "default": {},
    "keep": {"MALLOC_MMAP_THRESHOLD_": str(1 << 33), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)},
}


@dataclass
class Side:
    """What one side did, over its repeats."""

    name: str
    command: list[str]
    trained: Path
    results: list[dict[str, Any]]
    loss: float = float("nan")

    def speed(self, tokens: int) -> float:
        """Tokens per second, the median of the repeats."""
        return statistics.median(tokens / r["seconds"] for r in self.results)

    @property
    def peak(self) -> float:
        """Resident memory in GB, the median of the repeats' high-water marks."""
        return statistics.median(r["peak_bytes"] for r in self.results) / 1e9


def main() -> int:
    args = arguments()
    # Inherited by every process that is timed.
    os.environ.update(ALLOCATORS[args.allocator])
    base, template = load_base(args.base)
    ceiling = matmul_ceiling(base)
    print(f"machine    {report.machine()}")
    print(f"ceiling    {ceiling / 1e9:.0f} GFLOP/s, float32 matrix product")
    print(f"allocator  {args.allocator}")
    print(f"counted    {FORMULA}\n")
    chosen = [c for c in COMPARISONS if not args.only or c.name in args.only]
    outcomes = []
    for comparison in chosen:
        folder = ROOT / "build" / "bench" / comparison.name
        folder.mkdir(parents=True, exist_ok=True)
        path = job(comparison, base, template, folder, args.steps or comparison.steps)
        outcomes.append(compare(comparison, path, args))
        show(outcomes[-1], ceiling)
    if args.record and args.side == "both":
        report.record(outcomes, ceiling, args.allocator)
    return 1 if any(not o.equal for o in outcomes) else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.train", description="Rung beside TRL and PEFT.")
    names = [c.name for c in COMPARISONS]
    parser.add_argument("--only", action="append", choices=names, help="repeat for several")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side, taking turns")
    parser.add_argument("--steps", type=int, help="optimiser steps instead of the comparison's own")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--side", choices=["both", "peer", "rung"], default="both")
    parser.add_argument(
        "--allocator", choices=list(ALLOCATORS), default="default", help="for both sides alike"
    )
    parser.add_argument("--record", action="store_true", help="add to bench/RESULTS.md")
    return parser.parse_args()


def load_base(spec: str) -> tuple[str, Any]:
    """The base's folder and its template."""
    from transformers import AutoTokenizer

    from rung import bases
    from rung.data import Template

    folder = str(bases.resolve(spec).path)
    return folder, Template.of(AutoTokenizer.from_pretrained(folder))


def compare(comparison: Comparison, path: Path, args: argparse.Namespace) -> report.Outcome:
    """Run both sides in turns and score what they made."""
    content = json.loads(path.read_text())
    run([str(PEER_PYTHON), str(PEERS / "initial.py"), str(path)], path.parent / "initial.log")
    peer = Side(
        comparison.peer.removeprefix("train_").removesuffix(".py"),
        [str(PEER_PYTHON), str(PEERS / comparison.peer)],
        path.parent / "trained-peer",
        [],
    )
    ours = Side("rung", [sys.executable, "-m", "bench.train_rung"], path.parent / "trained-rung", [])
    sides = {"both": [peer, ours], "peer": [peer], "rung": [ours]}[args.side]
    for repeat in range(args.repeats):
        # Who goes first changes, so that neither always meets the warmer machine.
        for side in sides if repeat % 2 == 0 else sides[::-1]:
            side.results.append(once(side, content, path.parent))
    score(sides, path)
    return report.Outcome(
        comparison.name, comparison.what, content, sides, flop(content), LOSS_TOLERANCE
    )


def once(side: Side, content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One run of one side, in a process of its own."""
    path, result = folder / f"job-{side.name}.json", folder / f"result-{side.name}.json"
    path.write_text(json.dumps(content | {"out": str(side.trained)}))
    result.unlink(missing_ok=True)
    run([*side.command, str(path), str(result)], folder / f"{side.name}.log")
    return json.loads(result.read_text())


def score(sides: list[Side], path: Path, ruler: str = "evaluate.py") -> None:
    """The final loss of every side, by the same code on the same examples."""
    result = path.parent / "losses.json"
    folders = [str(side.trained) for side in sides]
    command = [str(PEER_PYTHON), str(PEERS / ruler), str(path), str(result), *folders]
    run(command, path.parent / "evaluate.log")
    losses = json.loads(result.read_text())
    for side in sides:
        side.loss = losses[str(side.trained)]


def run(command: list[str], log: Path) -> None:
    """Run a process with its output in a file, which is shown when it fails."""
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    # Everything is local: the peers must not wait for a network.
    environment = os.environ | quiet | {"HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=out, cwd=ROOT, env=environment)
    if done.returncode:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        raise SystemExit(f"{' '.join(command[:3])} failed, see {log}:\n{tail}")


def show(outcome: report.Outcome, ceiling: float) -> None:
    """One comparison; its last line is for scripts."""
    print(f"{outcome.name}: {outcome.what}")
    print(f"  {outcome.amount}")
    for side in outcome.sides:
        print(f"  {side.name:<5} {outcome.line(side, ceiling)}")
        settings = ", ".join(f"{k} {v}" for k, v in side.results[0]["settings"].items())
        print(f"        {settings}")
    if outcome.ratio is not None:
        if not outcome.equal:
            print("  FAILED: the final losses differ by more than 1%")
        print(f"RATIO {outcome.name} {outcome.ratio:.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
