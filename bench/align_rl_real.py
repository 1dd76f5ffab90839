"""Training by rewards on real data: what it gains on rows that were never trained on, with intervals.

    python -m bench.align_rl_real                            # some 20 minutes on two cores
    python -m bench.align_rl_real --only grpo --steps 3 --items 10

grpo    sums of two or three figures, made by the pinned reasoning-gym: accuracy of the base and of the
        model on sums that were never trained on, by the same items; the answer is extracted before it
        is compared.
ppo     notes on everyday subjects, rewarded by VADER's words out of its pinned wheel: mean reward
        before and after on subjects that were never trained on, the divergence from the base in nats a
        token, and the perplexity that the base gives to either side's notes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import report

FOLDER = report.RESULTS.parent.parent / "build" / "bench" / "align-rl"
GYM = "reasoning-gym==0.1.25"
VADER = "lexicon:wheel:vaderSentiment==3.3.2/vaderSentiment/vader_lexicon.txt"
SUBJECTS = (
    "a walk by the river", "the price of bread", "a late train", "my neighbour's dog", "a broken cup",
    "the first snow", "a long meeting", "an old bicycle", "the school play", "a lost umbrella",
    "the night shift", "a new kettle", "the village fair", "a letter from the bank", "an empty fridge",
    "the morning news",
)  # fmt: skip
FORMS = ("a short note", "two sentences", "a diary entry", "a message to a friend", "a review")
NOTE_TOKENS = 40
NOTES = 5  # to a held-out prompt


def main() -> int:
    args = arguments()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    cache = os.environ.get("RUNG_HOME")
    os.environ["RUNG_HOME"] = str(FOLDER / "home")
    _share_cache(Path(cache) if cache else Path.home() / ".rung")
    print(f"machine    {report.machine()}", flush=True)
    for name, work in (("grpo", grpo), ("ppo", ppo)):
        if not args.only or args.only == name:
            began = time.perf_counter()
            print("\n".join(work(args)), flush=True)
            print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.align_rl_real", description="Rewards on real data.")
    parser.add_argument("--only", choices=["grpo", "ppo"])
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--steps", type=int, help="optimiser steps instead of the usual")
    parser.add_argument("--items", type=int, help="test rows at most")
    return parser.parse_args()


def _share_cache(home: Path) -> None:
    """Bases and wheels that are there already are not fetched again."""
    target = FOLDER / "home"
    target.mkdir()
    for name in ("cache", "bases"):
        if (home / name).is_dir():
            (target / name).symlink_to(home / name)


def grpo(args: argparse.Namespace) -> list[str]:
    import rung

    sums = _sums(FOLDER / "sums.jsonl")
    common = {"data": sums, "dtype": "float32", "test": 0.3, "validation": 0.0}
    made = rung.tune(
        "solver", base=args.base, objective="grpo", reward="number", answers=8, answer_tokens=24,
        batch_size=8, steps=args.steps or 78, epochs=5, lr=1e-4, kl=0.01, **common,
    )  # fmt: skip
    found = rung.evaluate(args.base, "solver", reward="number", items=args.items, **common)
    rows = {name: found[name] for name in (args.base, "solver")}
    lines = [
        f"grpo: {made.state.step} steps of 8 prompts x 8 answers, accuracy on {_n(rows)} test rows"
    ]
    lines += [f"  {name:<14} {_figure(m)}" for name, m in rows.items()]
    return [*lines, f"  {found.comparisons[0].says}"]


def _sums(path: Path) -> Path:
    """Sums and their results, each once, by reasoning-gym out of a folder of its own."""
    packages = FOLDER / "packages"
    install = ["pip", "install", "-qq", "--disable-pip-version-check", "--target", str(packages), GYM]
    subprocess.run([sys.executable, "-m", *install], check=True)
    asked = {"seed": 2, "size": 1500, "min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}
    code = (
        "import json, sys, reasoning_gym as gym\n"
        "rows = gym.create_dataset('chain_sum', **json.loads(sys.argv[1]))\n"
        "for question, answer in {r['question']: r['answer'] for r in rows}.items():\n"
        "    print(json.dumps({'prompt': question, 'answer': answer}))\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", code, json.dumps(asked)], check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(packages)},
    )  # fmt: skip
    path.write_text(made.stdout)
    return path


def ppo(args: argparse.Namespace) -> list[str]:
    import rung

    train, held = FOLDER / "train.txt", FOLDER / "held.txt"
    split = len(SUBJECTS) * 3 // 4
    for path, subjects in ((train, SUBJECTS[:split]), (held, SUBJECTS[split:])):
        lines = [f"Write {f} about {s}." for s, f in itertools.product(subjects, FORMS)]
        path.write_text("".join(line + "\n" for line in lines))
    made = rung.tune(
        "cheerful", train, base=args.base, objective="ppo", reward=VADER, dtype="float32",
        answer_tokens=NOTE_TOKENS, batch_size=16, answers=2, updates=2, epochs=20,
        steps=args.steps or 40, lr=1e-4, kl=0.02, validation=0.0, test=0.0,
    )  # fmt: skip
    asked = [line for line in held.read_text().splitlines()][: args.items]
    texts = _drawn(args.base, asked)
    head = f"ppo: {made.state.step} steps of 16 prompts x 2 answers"
    lines = [f"{head}, {NOTES} notes on each of {len(asked)} prompts"]
    for name, notes in texts.items():
        reward, perplexity = _rewards(notes), _perplexity(args.base, name, notes)
        lines.append(f"  {name:<14} reward {reward}, perplexity by the base {perplexity:.1f}")
    return [*lines, f"  divergence in the last step {_last_divergence(made):.3f} nats a token"]


def _drawn(base: str, asked: list[str]) -> dict[str, list[str]]:
    """Notes of the base and of the model, several to a prompt, drawn at temperature 1 by seeds."""
    import rung

    notes: dict[str, list[str]] = {}
    for seed in range(1, NOTES + 1):
        found = rung.compare(
            ["cheerful"], asked, temperature=1.0, seed=seed, max_tokens=NOTE_TOKENS, dtype="float32"
        )
        for prompt in asked:
            for name, note in found[prompt].items():
                notes.setdefault(name, []).append(note)
    return notes


def _rewards(notes: list[str]) -> str:
    """Their mean by the lexicon, with its 95% interval by the bootstrap."""
    import numpy as np

    from rung.evals.intervals import bootstrap, percentile
    from rung.evals.metrics.base import mean
    from rung.rewards import Answer, make

    scores = make([VADER]).score([Answer(prompt=(), text=note) for note in notes])
    statistics = np.array([[s or 0.0, 1.0] for s in scores])
    low, high = percentile(bootstrap(statistics, mean))
    return f"{float(statistics[:, 0].mean()):.3f} [{low:.3f}, {high:.3f}]"


def _perplexity(base: str, name: str, notes: list[str]) -> float:
    import rung

    rows = [{"text": note} for note in notes if note.strip()]
    path = FOLDER / f"notes-{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = rung.evaluate(base, data=path, metric="perplexity", part="all", allow_leakage=True)
    return found[base].value


def _last_divergence(made: Any) -> float:
    log = Path(os.environ["RUNG_HOME"]) / "runs" / made.run / "log.jsonl"
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    return [step["kl"] for step in steps if "kl" in step][-1]


def _figure(measured: Any) -> str:
    return f"{measured.value:.3f} [{measured.low:.3f}, {measured.high:.3f}]"


def _n(rows: dict[str, Any]) -> int:
    return next(iter(rows.values())).n


if __name__ == "__main__":
    sys.exit(main())
