"""What a climb saves by sharing: all rungs at once beside the same rungs one by one.

    make bench-features CLIMB_ARGS="--rows 200"         # behind bench/features.py
    python -m bench.climb --rows 200 --rung zero_shot --rung linear_probe --steps 10
    python -m bench.climb --by tune                     # against rung tune and rung eval
    python -m bench.climb --record                      # adds the figures to bench/RESULTS.md

The whole is one `rung climb DATA --all`. The parts are the rungs that it tried, each as a user would
type it: `rung climb DATA --all --only RUNG`, or, by `tune`, the command that the scorecard gives for
the row and a `rung eval` of its model on the validation rows. Every command is a process of its own
with an empty home, so that nothing is shared but the wheels and the converted base, which all find
ready; its wall time from start to exit counts, loading included. Both sides get the same data, base,
precision and number of trials, and a budget that cuts nothing short: a rung that trained for another
number of steps in the whole than alone fails the run. So does a ratio above the goal.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import report

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "bench" / "climb"
SARCASM = "wheel:evals/evals/registry/data/sarcasm/samples.jsonl"
GOAL = 0.8
READY = ("bases", "wheels", "digests")  # of the cache: what everybody has before


@dataclass
class Part:
    """One rung alone: seconds of wall time, and the steps that it trained for."""

    key: str
    seconds: float
    steps: int | None


def main() -> int:
    args = arguments()
    LOGS.mkdir(parents=True, exist_ok=True)
    print(f"machine    {report.machine()}\n")
    flags = climb_flags(args)
    with Home() as home:
        whole, card = climb(home, "whole", [*flags, *only(args.rung)])
    tried = [r for r in card["rungs"] if r["method"] and r["status"] == "succeeded"]
    spent = sum(r["cost"]["wall"] for r in tried)
    print(
        f"whole      {whole:7.1f} s: {spent:.1f} s in its rungs, {whole - spent:.1f} s for all of them"
    )
    parts = []
    for row in tried:
        parts.append(alone(row, flags, args))
        within = row["cost"]["wall"]
        print(f"  {row['key']:<20} {parts[-1].seconds:7.1f} s alone, {within:7.1f} s within")
    total = sum(part.seconds for part in parts)
    print(f"one by one {total:7.1f} s\n")
    faults = differences(tried, parts) if args.by == "climb" else []
    ratio = whole / total
    if ratio > GOAL:
        faults.append(f"climb_overhead is {ratio:.2f}, above {GOAL:g}")
    if args.record:
        record(whole, tried, parts, args)
    for fault in faults:
        print(f"FAILED: {fault}")
    print(f"RATIO climb_overhead {ratio:.2f}", flush=True)
    return 1 if faults else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.climb", description="A climb beside its rungs alone.")
    parser.add_argument("--data", default=SARCASM)
    parser.add_argument(
        "--rows", type=int, default=625, help="rows of the data; 625 leave 500 to train"
    )
    parser.add_argument(
        "--rung", action="append", default=[], help="repeat for several; all by default"
    )
    parser.add_argument("--steps", type=int, help="optimiser steps at most, for every trained rung")
    parser.add_argument("--trials", type=int, default=1, help="settings to try on a rung")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument(
        "--by", choices=["climb", "tune"], default="climb", help="how a rung is run alone"
    )
    parser.add_argument("--record", action="store_true", help="add to bench/RESULTS.md")
    return parser.parse_args()


def climb_flags(args: argparse.Namespace) -> list[str]:
    """What the whole and each part are given alike."""
    if Path(args.data).exists():
        args.data = str(Path(args.data).resolve())  # commands run elsewhere
    flags = [
        args.data, "--all", "--limit", str(args.rows), "--base", args.base, "--dtype", "float32",
        "--trials", str(args.trials), "--budget", "24h",
    ]  # fmt: skip
    return flags if args.steps is None else [*flags, "--steps", str(args.steps)]


def only(rungs: list[str]) -> list[str]:
    return [word for rung in rungs for word in ("--only", rung)]


class Home:
    """An empty RUNG_HOME with the user's wheels and converted bases in its cache."""

    def __enter__(self) -> Path:
        from rung.home import home

        self._folder = tempfile.TemporaryDirectory(prefix="rung-bench-")
        made, cache = Path(self._folder.name), home() / "cache"
        (made / "cache").mkdir()
        for name in READY:
            if (cache / name).is_dir():
                (made / "cache" / name).symlink_to(cache / name, target_is_directory=True)
        return made

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def rung(home: Path, log: str, words: list[str]) -> tuple[float, str]:
    """Run the command line in a process of its own: (seconds of wall time, what it wrote)."""
    path = LOGS / f"{log}.log"
    began = time.perf_counter()
    with path.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "rung.cli", *words],
            env=os.environ | {"RUNG_HOME": str(home)}, cwd=home, stdout=subprocess.PIPE, stderr=out,
            text=True,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    if done.returncode:
        tail = "\n".join(path.read_text().splitlines()[-15:])
        raise SystemExit(f"rung {shlex.join(words)} failed, see {path}:\n{tail}")
    return seconds, done.stdout


def climb(home: Path, log: str, flags: list[str]) -> tuple[float, dict[str, Any]]:
    """Seconds of a climb, and its scorecard, with the steps that each rung trained for."""
    from rung.store import Store

    seconds, said = rung(home, log, ["climb", *flags, "--name", "bench", "--json"])
    card = json.loads(said)
    with Store.open(f"sqlite:///{home / 'rung.db'}") as store:
        kept = {r.key: r.metrics.get("steps") for r in store.climbs.rungs(card["climb"])}
    for row in card["rungs"]:
        row["steps"] = kept[row["key"]]
    return seconds, card


def alone(row: dict[str, Any], flags: list[str], args: argparse.Namespace) -> Part:
    """One rung by itself, with an empty home."""
    key = row["key"]
    with Home() as home:
        if args.by == "climb":
            seconds, card = climb(home, key, [*flags, "--only", key])
            (own,) = (r for r in card["rungs"] if r["key"] == key)
            return Part(key, seconds, own["steps"])
        words = shlex.split(row["command"])[1:]
        tuned, _ = rung(home, key, words)
        asked = [
            "eval",
            words[1],
            "--data",
            args.data,
            "--limit",
            str(args.rows),
            "--part",
            "validation",
        ]
        measured, _ = rung(home, f"{key}-eval", asked)
        return Part(key, tuned + measured, None)


def differences(tried: list[dict[str, Any]], parts: list[Part]) -> list[str]:
    """Rungs that did not do the same work on both sides."""
    return [
        f"{row['key']} trained for {row['steps']} steps in the whole and {part.steps} alone"
        for row, part in zip(tried, parts, strict=True)
        if row["steps"] != part.steps
    ]


def record(
    whole: float, tried: list[dict[str, Any]], parts: list[Part], args: argparse.Namespace
) -> None:
    """Append a table with the machine it was measured on."""
    total = sum(p.seconds for p in parts)
    what = f"{args.rows} rows, {args.trials} trial a rung" + (
        f", {args.steps} steps" if args.steps else ""
    )
    lines = [
        f"\n## A climb beside its rungs one by one, {datetime.date.today().isoformat()}\n",
        f"{report.machine()}; {what}; alone by rung {args.by}.\n",
        "| rung | alone, s | within the climb, s |",
        "|---|---|---|",
        *(
            f"| {p.key} | {p.seconds:.1f} | {r['cost']['wall']:.1f} |"
            for r, p in zip(tried, parts, strict=True)
        ),
        f"| all | {total:.1f} | {whole:.1f} |",
        f"\n- RATIO climb_overhead {whole / total:.2f}",
    ]
    with report.RESULTS.open("a") as out:
        out.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
