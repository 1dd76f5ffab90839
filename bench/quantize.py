"""LoRA on a quantised base beside LoRA on the plain one: memory, quality on the same items, time.

    python -m bench.quantize                          # none, int8, int4 and nf4
    python -m bench.quantize --kinds none,int8 --rows 300 --items 200
    python -m bench.quantize --record                 # adds the figures to bench/RESULTS.md

Headlines told to be sarcastic or not, in float32, one seed: each model is trained by `rung tune` and
asked by `rung eval`, on the base in as many bits as it was trained on, and compared item by item with
the one on the plain base. What was trained is kept under build/bench/quantize, so a run that was
stopped goes on. Two figures say what a base takes: its weights, counted byte by byte, and by how much
the process grew from before it was loaded until it had answered once.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import shutil
import subprocess
import sys
from typing import Any

from bench import report
from bench.examples import json_lines
from bench.train import ROOT
from rung.home import folder as home_folder

KINDS = ("none", "int8", "int4", "nf4")
FOLDER = ROOT / "build" / "bench" / "quantize"
BASE = "smollm2-135m"
HEADER = (
    "| weights | bytes | of float32 | process grew by | trained in | accuracy | 95% interval "
    "| against none |\n|---|---|---|---|---|---|---|---|"
)


def main() -> int:
    args = arguments()
    if args.memory:
        print(json.dumps(memory(args.memory)))
        return 0
    kinds = args.kinds.split(",")
    settle(args.rows, args.items, args.epochs)
    print(f"machine    {report.machine()}")
    weighed = {kind: asked(["-m", "bench.quantize", "--memory", kind]) for kind in kinds}
    for kind in kinds:
        if not (FOLDER / "home" / "models" / model_of(kind)).exists():
            tune(kind, args.epochs)
    test = ["--data", str(FOLDER / "test.jsonl"), "--part", "all"]
    models = [model_of(kind) for kind in kinds]
    found = asked(["-m", "rung.cli", "eval", *models, *test, "--dtype", "float32", "--json"])
    show(weighed, found, f"{args.rows} rows, {args.epochs} epochs, {args.items} items", args.record)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.quantize", description="LoRA on a quantised base.")
    parser.add_argument("--kinds", default=",".join(KINDS), help="the first is compared with")
    parser.add_argument("--rows", type=int, default=1440, help="of training and validation")
    parser.add_argument("--items", type=int, default=1500, help="asked, none of them trained on")
    parser.add_argument("--epochs", type=int, default=3, help="fewer, and luck decides")
    parser.add_argument("--record", action="store_true", help="add to bench/RESULTS.md")
    parser.add_argument("--memory", choices=KINDS, help=argparse.SUPPRESS)
    return parser.parse_args()


def settle(rows: int, items: int, epochs: int) -> None:
    """The data, and a home of its own that shares the cache; begun anew where another was asked for."""
    asked_for, kept = f"{rows} {items} {epochs}", FOLDER / "asked.txt"
    if not kept.exists() or kept.read_text() != asked_for:
        shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "home").mkdir(parents=True, exist_ok=True)
    cache = FOLDER / "home" / "cache"
    if not cache.exists():
        cache.symlink_to(home_folder("cache"))
    os.environ["RUNG_HOME"] = str(FOLDER / "home")
    every = json_lines("evals==3.0.1.post1", "evals/registry/data/sarcasm/samples.jsonl")
    drawn = random.Random(0).sample(every, rows + items)
    for name, part in (("train", drawn[:rows]), ("test", drawn[rows:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (FOLDER / f"{name}.jsonl").write_text(text)
    kept.write_text(asked_for)


def tune(kind: str, epochs: int) -> None:
    """One training, by the command that a user would give."""
    settings = ["--method", "lora", "--base", BASE, "--dtype", "float32", "--epochs", str(epochs)]
    data = ["--data", str(FOLDER / "train.jsonl"), "--test", "0"]
    print(f"training   {kind}", flush=True)
    asked(["-m", "rung.cli", "tune", model_of(kind), *data, *settings, "--quantize", kind, "--json"])


def model_of(kind: str) -> str:
    """The model on a base of that kind; 'none' itself can be no model's name."""
    return f"lora-{kind}"


def asked(command: list[str]) -> dict[str, Any]:
    """What a process of its own answers as JSON."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed with {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def memory(kind: str) -> dict[str, int]:
    """Bytes of the weights, what they would be in float32, and the growth of this process."""
    import psutil
    import torch

    from rung import bases
    from rung.forward.bank import Bank
    from rung.forward.trie import Sequence

    # Brings the libraries in, which are not what is measured.
    bases.load(bases.resolve("scratch:layers=2,width=64,heads=2,vocab=300"), quantize=kind)
    before = psutil.Process().memory_info().rss
    base = bases.load(bases.resolve(BASE), dtype="float32", quantize=kind)
    bank = Bank(base.model)
    with torch.no_grad():
        hidden = bank.forward(bank.trie([Sequence(tuple(range(5, 69)))]))
        bank.head(-1).logits(hidden[-1:])
    held, plain = bases.memory(base.model)
    return {"held": held, "plain": plain, "grew": psutil.Process().memory_info().rss - before}


def show(weighed: dict[str, Any], found: dict[str, Any], what: str, record: bool) -> None:
    """The figures; the last lines are for scripts."""
    against = {c["model"]: c for c in found["comparisons"]}
    lines = []
    for model in found["models"]:
        kind = model["name"].removeprefix("lora-")
        took, other = weighed[kind], against.get(model["name"])
        beside = (
            f"{other['difference']:+.4f} ({other['low']:+.4f} to {other['high']:+.4f})" if other else ""
        )
        about = json.loads((FOLDER / "home" / "models" / model["name"] / "rung.json").read_text())
        cells = [
            kind, f"{took['held'] / 1e6:.1f} MB", f"{took['held'] / took['plain']:.3f}",
            f"{took['grew'] / 1e6:.0f} MB", f"{about['cost']['seconds']:.0f} s",
            f"{model['value']:.4f}", f"{model['low']:.3f} to {model['high']:.3f}",
            beside,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    print("\n".join([HEADER, *lines]))
    for kind, took in weighed.items():
        print(f"RATIO base_memory_{kind} {took['held'] / took['plain']:.3f}")
    for model, one in against.items():
        print(f"DIFFERENCE accuracy_{model} {one['difference']:+.4f}")
    if record:
        today = datetime.date.today().isoformat()
        head = f"\n## LoRA on a quantised base, {today}\n"
        with report.RESULTS.open("a") as out:
            body = "\n".join([head, f"{report.machine()}.\n", HEADER, *lines])
            out.write(f"{body}\n\n- {BASE}, sarcasm: {what}, float32, one seed\n")


if __name__ == "__main__":
    sys.exit(main())
