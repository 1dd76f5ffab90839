"""Memory of trainings: LoRA over a quantised base of 1.7 billion weights, and all of a small one.

    python -m bench.memory                                  # LoRA over nf4: bytes for each weight
    python -m bench.memory --before ../before               # `full` beside another checkout, too
    python -m bench.memory --only qlora --layers 4          # a smaller base, to see that it runs

A process's peak is its high-water mark, read from /proc (VmHWM) until it ends: interpreter, libraries
and loading are in it. The base has random weights in the shape of a model of 1.7 billion, written once
as bfloat16 safetensors; a gigabyte is taken off for what does not grow with it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import psutil

from bench import distributed, report
from bench.train import ROOT, load_base

QLORA, FULL = 0.74, 0.6  # bytes a weight, and share of the peak before, at most
FIXED = 1e9  # bytes that do not grow with the base
TOKENS = 512  # of a row
# What `full` is told, in order; the last takes the least.
LESS = {
    "full_memory_by_default": [],
    "full_memory_moments": ["--optimizer", "adamw8bit"],
    "full_memory": ["--optimizer", "adamw8bit", "--recompute", "on"],
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("qlora", "full"))
    parser.add_argument("--before", help="folder of another checkout")
    parser.add_argument("--layers", type=int, default=24, help="of the base of LoRA over nf4")
    args = parser.parse_args()
    distributed.FOLDER.mkdir(parents=True, exist_ok=True)
    os.environ["RUNG_HOME"] = str(distributed.HOME)
    load_base(distributed.BASE)
    print(f"machine    {report.machine()}", flush=True)
    fine = True
    if args.only != "full":
        fine &= qlora(args.layers)
    if args.before and args.only != "qlora":
        fine &= full(Path(args.before).resolve())
    return 0 if fine else 1


def qlora(layers: int) -> bool:
    """Print bytes for each weight of the base; returns whether they are few enough."""
    base = distributed.random_base(layers)
    # A word is a token, and the rest are those of the template and the question.
    data = distributed.rows(8, TOKENS - 72)
    found = peak(ROOT, "qlora", data, [
        "--base", str(base), "--method", "lora", "--quantize", "nf4", "--max-length", str(TOKENS),
        "--steps", "2", "--batch-size", "1", "--recompute", "on",
    ])  # fmt: skip
    weights = sum(p.stat().st_size for p in base.glob("*.safetensors")) / 2
    ratio = (found - FIXED) / weights
    print(f"peak {found / 1e9:.2f} GB, {weights / 1e9:.2f} billion weights")
    print(f"RATIO qlora_bytes_per_weight {ratio:.2f}   (at most {QLORA:g} wanted)", flush=True)
    return ratio <= QLORA


def full(before: Path) -> bool:
    """Print the peak of training all weights in both checkouts; returns whether it fell enough."""
    data = distributed.rows(32, 200)
    settings = ["--base", distributed.BASE, "--method", "full", "--steps", "4", "--batch-size", "4",
                "--dtype", "float32"]  # fmt: skip
    for side in (before, ROOT):
        peak(side, "full", data, settings)  # converts the base, which is no training
    then = peak(before, "full", data, settings)
    print(f"before {then / 1e9:.2f} GB", flush=True)
    for name, more in LESS.items():
        now = peak(ROOT, "full", data, [*settings, *more])
        print(f"RATIO {name} {now / then:.2f}   {now / 1e9:.2f} GB {' '.join(more)}", flush=True)
    print(f"at most {FULL:g} wanted of the last", flush=True)
    return now / then <= FULL


def peak(checkout: Path, name: str, data: Path, settings: list[str]) -> int:
    """The high-water mark of `rung tune` in a checkout, bytes.

    Raises:
        SystemExit: with what it said, when it failed.
    """
    command = [sys.executable, "-m", "rung.cli", "tune", name, "--replace", "--data", str(data),
               "--patience", "0", "--validation", "0", "--test", "0", *settings]  # fmt: skip
    # A store of its own: the older checkout refuses one that the newer has migrated.
    home = distributed.FOLDER / f"home-{checkout.name}"
    environment = os.environ | {"PYTHONPATH": str(checkout), "RUNG_HOME": str(home)}
    said = distributed.FOLDER / f"said-{checkout.name}.txt"
    with said.open("w") as out:
        process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=out, stderr=out)
        found = distributed.watch(psutil.Process(process.pid))
        if process.wait():
            raise SystemExit(said.read_text())
    return max(found.values())


if __name__ == "__main__":
    raise SystemExit(main())
