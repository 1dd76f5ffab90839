"""What `rung plan` says beside what then happens, rung by rung.

    make bench-plan                                   # nine rungs on headlines
    make bench-plan ARGS="--burn"                     # beside a process that burns one core
    make bench-plan ARGS="--rung lora --rung rag --rows 300 --steps 20 --data FILE"

The plan is made in an empty home but for the wheels and the converted base, as on a machine that is
new to the data. Then every rung is climbed by itself, in a process and an empty home of its own, with
the same data, base and steps and a budget that cuts nothing short. The run fails where the plan took
more than `PLAN` seconds, or a rung's making took more or less than a quarter beside what was said
and the two are more than `BLINK` seconds apart: nobody plans by less.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import report
from bench.climb import LOGS, SARCASM, Home, climb, rung
from bench.climb_tasks import burning

PLAN = 10.0  # seconds
NEAR = 0.25  # of what was said
BLINK = 2.0  # seconds
RUNGS = ("tfidf", "boosted_trees", "zero_shot", "few_shot", "linear_probe", "linear_probe-minilm",
         "prompt_tuning", "lora-upper", "lora", "last_layers")  # fmt: skip


@dataclass(frozen=True)
class Beside:
    """Of one rung: seconds of making it as planned and as taken, and its peak memory in bytes."""

    key: str
    planned: float
    taken: float
    bytes_planned: int
    bytes_taken: int

    @property
    def off(self) -> float:
        """Share by which it took more (or less, below 0) than was said."""
        return self.taken / max(self.planned, 1e-9) - 1

    @property
    def near(self) -> bool:
        return abs(self.off) <= NEAR or abs(self.taken - self.planned) <= BLINK

    @property
    def told(self) -> str:
        taken = f"planned {self.planned:7.1f} s, took {self.taken:7.1f} s ({self.off:+.0%})"
        memory = f"{self.bytes_planned / 2**30:.2f} GiB, took {self.bytes_taken / 2**30:.2f} GiB"
        return f"{self.key:<20} {taken}; memory {memory}"


def main() -> int:
    args = arguments()
    LOGS.mkdir(parents=True, exist_ok=True)
    print(f"machine    {report.machine()}\n", flush=True)
    # Commands run elsewhere.
    data = str(Path(args.data).resolve()) if Path(args.data).exists() else args.data
    flags = [data, "--limit", str(args.rows), "--base", args.base, "--budget", "24h"]
    flags += ["--steps", str(args.steps)]
    with burning(args.burn):
        with Home() as home:
            seconds, said = rung(home, "plan", ["plan", *flags, "--json"])
        planned = {row["key"]: row for row in json.loads(said)}
        print(f"plan       {seconds:.1f} s for {len(planned)} rungs", flush=True)
        found = []
        for key in args.rung:
            found.append(beside(key, planned, flags))
            print(found[-1].told, flush=True)
    right = sum(one.near for one in found)
    print(f"\nmedian of the distance {median(abs(one.off) for one in found):.0%}")
    print(f"RATIO plan_within_a_quarter {right / len(found):.2f}", flush=True)
    faults = [f"{one.key} took {one.off:+.0%}" for one in found if not one.near]
    if seconds > PLAN:
        faults.append(f"the plan took {seconds:.1f} s")
    for fault in faults:
        print(f"FAILED: {fault}")
    return 1 if faults else 0


def beside(key: str, rows: dict[str, dict], flags: list[str]) -> Beside:
    """A rung by itself, without others of its method, beside what was said of it."""
    others = [word for other in rows if other.startswith(f"{key}-") for word in ("--skip", other)]
    with Home() as home:
        _, card = climb(home, f"plan-{key}", [*flags, "--all", "--only", key, *others])
    (own,) = (row for row in card["rungs"] if row["key"] == key)
    cost, planned = own["cost"], rows[key]
    return Beside(key, planned["seconds"], cost["seconds"], planned["bytes"], cost["bytes"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.plan", description="A plan beside what happens.")
    parser.add_argument("--data", default=SARCASM)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=40, help="of every training")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--rung", action="append", default=[], help="repeat for several")
    parser.add_argument("--burn", action="store_true", help="beside a process that burns one core")
    args = parser.parse_args()
    args.rung = args.rung or list(RUNGS)
    return args


if __name__ == "__main__":
    sys.exit(main())
