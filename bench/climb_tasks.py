"""Climbs on eight real tasks at several budgets, beside what people would use in the same time.

    make bench-climb-tasks                                        # all tasks at 1, 5 and 20 minutes
    make bench-climb-tasks ARGS="--tasks laws,singer --budgets 1"  # two of them, at one minute
    make bench-climb-tasks ARGS="--burn"                          # beside a process that burns one core
    make bench-climb-tasks ARGS="--oracle lora,last_layers"       # regret against rungs with all rows

Every climb is a process of its own with an empty home, so that nothing is known before but the wheels
and the converted base. Of each the table has: seconds from the data being read to the first figure, to
the first figure that clears the bar (two points under the best known: the oracle's or a peer's), and
to the end; the share of the budget that went into no rung; the winner on the test rows with its
interval; what the oracle has over it, which is the best, by its figure on the test rows, of rungs that
are trained alone on all rows without limit; and on the same split TF-IDF with logistic regression,
SetFit on the same encoder and AutoGluon, see bench/climb_peers.py. A rung that was trained alone is
kept in build/bench/climb/alone.json, since hours go into it. The run fails where a climb ends after 1.1
times its budget, its first figure takes over 15 s, more than a tenth of the budget went into no rung,
the winner is worse than a peer beyond its interval, or regret is above what `REGRET` allows.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench import report
from bench.climb import LOGS, Home
from bench.climb import rung as command
from bench.climb_peers import Peer, Texts, peers

EVALS = "wheel:evals==3.0.1.post1/evals/registry/data"
FIRST, OVER, IDLE = 15.0, 1.1, 0.1  # seconds; times the budget; share of the budget
REGRET = {20.0: (1.0, 3.0), 5.0: (2.0, 5.0)}  # by minutes: points in the median, and at worst
WON = 0.75  # of the tasks, on which the climb is not worse than any peer
NEAR = 0.02  # of the metric under the best known: the bar
RUNG = re.compile(r"^\s*rung\s+(\S+)\s+(\d[\d.]*) \[")


@dataclass(frozen=True)
class Task:
    """Rows of a package, and what they are."""

    name: str
    member: str
    what: str
    rows: int | None = None

    @property
    def source(self) -> str:
        return f"{EVALS}/{self.member}"


TASKS = (
    Task("sarcasm", "sarcasm/samples.jsonl", "headlines, 2 labels", 20_000),
    Task("singer", "guess_the_singer/samples.jsonl", "first words of songs, 21 labels"),
    Task("laws", "brazilian_laws/samples.jsonl", "Portuguese laws, 30 labels"),
    Task("beliefs", "theory_of_mind/tomi/test.jsonl", "where a thing is in a story, 13 labels", 3000),
    Task("strings", "naughty_strings/samples.jsonl", "malicious strings, 2 labels"),
    Task("ranks", "poker_hand_ranks/full_samples.jsonl", "ranks of poker hands, 8 labels"),
    Task("sums", "logical_counting/samples.jsonl", "ducks counted, a number"),
    Task("manga", "manga-translation/bubbles.jsonl", "Japanese to English"),
)


@dataclass
class Result:
    """One climb. `first` and `bar` are seconds after the data was read, `end` since the start.

    Attributes:
        idle: share of the budget that went into no rung. regret: points that the oracle has over it.
    """

    task: str
    minutes: float
    first: float | None
    bar: float | None
    end: float
    idle: float
    winner: str
    value: float
    low: float
    high: float
    metric: str
    peers: list[Peer] = field(default_factory=list)
    regret: float | None = None

    def faults(self) -> list[str]:
        """What was promised and not kept."""
        found = []
        if self.end > OVER * 60 * self.minutes:
            found.append(f"ended after {self.end:.0f} s")
        if self.first is None or self.first > FIRST:
            found.append(f"first figure after {self.first} s")
        if self.idle > IDLE:
            found.append(f"{self.idle:.0%} of the budget in no rung")
        found += [f"{self.metric} {self.value:.3f} beside {p.told}" for p in self.better]
        return [f"{self.task} at {self.minutes:g} min: {fault}" for fault in found]

    @property
    def better(self) -> list[Peer]:
        """The peers that are better beyond the climb's interval."""
        return [p for p in self.peers if p.value is not None and p.value > self.high]


def main() -> int:
    args = arguments()
    LOGS.mkdir(parents=True, exist_ok=True)
    print(f"machine    {report.machine()}\n", flush=True)
    results = []
    with burning(args.burn):
        for task in (t for t in TASKS if t.name in args.tasks):
            texts = Texts.read(task.source, task.rows)
            known = oracle(task, args) if args.oracle else {}
            for minutes in args.budgets:
                label = f"{task.name}-{minutes:g}"
                beside = [] if args.no_peers else peers(texts, 60 * minutes, LOGS, label)
                results.append(climb(task, minutes, args, beside, known))
                print(line(results[-1]), flush=True)
    faults = [fault for result in results for fault in result.faults()] + overall(results)
    print("\n" + "\n".join(table(results)))
    if args.record:
        record(results, args)
    for fault in faults:
        print(f"FAILED: {fault}")
    return 1 if faults else 0


def overall(results: Sequence[Result]) -> list[str]:
    """What is promised of all tasks together, by budget, and not kept; prints how they stand."""
    found = []
    for minutes in sorted({r.minutes for r in results}):
        here = [r for r in results if r.minutes == minutes]
        rivals = [r for r in here if any(p.value is not None for p in r.peers)]
        won = sum(not r.better for r in rivals)
        if rivals:
            print(f"RATIO climb_won_or_tied_{minutes:g}m {won / len(rivals):.2f}")
            if won < WON * len(rivals):
                found.append(f"{minutes:g} min: won or tied on {won} of {len(rivals)} tasks")
        points = [r.regret for r in here if r.regret is not None]
        if points:
            print(
                f"REGRET {minutes:g} min: median {median(points):.1f}, worst {max(points):.1f} points"
            )
            middle, worst = REGRET.get(minutes, (100.0, 100.0))
            if median(points) > middle or max(points) > worst:
                found.append(f"{minutes:g} min: regret above {middle:g} in the median or {worst:g}")
    return found


def arguments() -> argparse.Namespace:
    names = [t.name for t in TASKS]
    parser = argparse.ArgumentParser(prog="bench.climb_tasks", description="Climbs on real tasks.")
    parser.add_argument("--tasks", default=",".join(names), help=f"some of {', '.join(names)}")
    parser.add_argument("--budgets", default="1,5,20", help="minutes, such as 1,5")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--oracle", metavar="METHODS", help="train these alone first: lora,last_layers")
    parser.add_argument("--no-peers", action="store_true", help="climb alone")
    parser.add_argument("--burn", action="store_true", help="beside a process that burns one core")
    parser.add_argument("--record", action="store_true", help="add to bench/RESULTS.md")
    args = parser.parse_args()
    args.tasks = args.tasks.split(",")
    unknown = [name for name in args.tasks if name not in names]
    if unknown:
        parser.error(f"no task {', '.join(unknown)}; there are {', '.join(names)}")
    args.budgets = [float(minutes) for minutes in args.budgets.split(",")]
    return args


@contextlib.contextmanager
def burning(on: bool) -> Iterator[None]:
    """A process beside that keeps one core busy."""
    if not on:
        yield
        return
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def climb(
    task: Task, minutes: float, args: argparse.Namespace, beside: list[Peer], known: dict[str, float]
) -> Result:
    """One climb in a process of its own, its lines timed as they come."""
    seconds = 60 * minutes
    with Home() as home:
        began = time.perf_counter()
        card, seen = run(
            home, f"tasks-{task.name}-{minutes:g}", words(task, args, f"{seconds:g}s", home)
        )
        end = time.perf_counter() - began
    figure = winning(card)
    rivals = [p.value for p in beside if p.value is not None]
    best = max([*rivals, *known.values()], default=None)
    # Metrics of texts that reach to 100 are measured in those points already.
    scale = 100.0 if max(figure["value"], best or 0.0) > 1 else 1.0
    over = [at for at, value in seen.figures if best is not None and value >= best - NEAR * scale]
    idle = max(0.0, (card["seconds"] - card["working"]) / max(seconds, card["seconds"]))
    regret = max(0.0, max(known.values()) - figure["value"]) * 100 / scale if known else None
    return Result(
        task.name, minutes, seen.figures[0][0] if seen.figures else None, min(over, default=None), end,
        idle, card["verdict"]["winner"] or "none", figure["value"], figure["low"], figure["high"],
        figure["metric"], beside, regret,
    )  # fmt: skip


def words(task: Task, args: argparse.Namespace, budget: str, home: Any) -> list[str]:
    """The command of a climb, behind `rung climb`."""
    found = [task.source, "--base", args.base, "--budget", budget, "--name", "bench", "--json",
             "--report", str(home / "report.html")]  # fmt: skip
    return found + (["--limit", str(task.rows)] if task.rows else [])


def winning(card: dict[str, Any]) -> dict[str, Any]:
    """The winner's figure on the test rows, on validation where they were not reached."""
    verdict = card["verdict"]
    winner = verdict["winner"] or "none"
    on_validation = {r["key"]: r["validation"] for r in card["rungs"]}
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0, "metric": card["task"]["metric"]}
    return (verdict.get("test") or {}).get(winner) or on_validation.get(winner) or nothing


@dataclass
class Seen:
    """Seconds after the data was read at which figures stood in the table."""

    figures: list[tuple[float, float]]


def run(home: Any, log: str, words: list[str]) -> tuple[dict[str, Any], Seen]:
    """The command's JSON, and when its lines came."""
    path, seen, read = LOGS / f"{log}.log", Seen([]), time.perf_counter()
    # The JSON is larger than a pipe holds, and nobody reads it before the end: it goes to a file.
    with path.open("w", buffering=1) as out, tempfile.TemporaryFile("w+") as made, subprocess.Popen(
        [sys.executable, "-m", "rung.cli", "climb", *words], env=os.environ | {"RUNG_HOME": str(home)},
        stdout=made, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for text in process.stderr:
            out.write(text)
            if text.lstrip().startswith("data "):
                read = time.perf_counter()
            if found := RUNG.match(text):
                seen.figures.append((time.perf_counter() - read, float(found[2])))
        process.wait()
        made.seek(0)
        said = made.read()
    if process.returncode:
        tail = "\n".join(path.read_text().splitlines()[-15:])
        raise SystemExit(f"rung climb {' '.join(words)} failed, see {path}:\n{tail}")
    return json.loads(said), seen


def oracle(task: Task, args: argparse.Namespace) -> dict[str, float]:
    """By method the figure on the test rows of a rung that learns from all rows without limit."""
    kept = LOGS / "alone.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    own = known.setdefault(f"{task.name} {args.base}", {})
    data = ["--data", task.source, *(["--limit", str(task.rows)] if task.rows else [])]
    for method in args.oracle.split(","):
        if method in own:
            continue
        log = f"alone-{task.name}-{method}"
        with Home() as home:
            tune = ["tune", "alone", *data, "--base", args.base, "--method", method]
            seconds, _ = command(home, log, tune)
            _, said = command(home, f"{log}-eval", ["eval", "alone", *data, "--json"])
        own[method] = json.loads(said)["models"][0]["value"]
        print(f"{task.name:<8} {method} alone: {own[method]:.3f} after {seconds:.0f} s", flush=True)
        kept.write_text(json.dumps(known, indent=2))
    return own


def told(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.0f} s"


def line(result: Result) -> str:
    """A result on one line."""
    beside = "".join(f", {p.told}" for p in result.peers)
    regret = "" if result.regret is None else f", regret {result.regret:.1f}"
    return (
        f"{result.task:<8} {result.minutes:>3g} min: {result.winner} {result.metric} "
        f"{result.value:.3f} [{result.low:.3f}, {result.high:.3f}]{regret}{beside}; first figure "
        f"{told(result.first)}, bar {told(result.bar)}, end {result.end:.0f} s, idle {result.idle:.0%}"
    )


def table(results: Sequence[Result]) -> list[str]:
    """Lines of a Markdown table."""
    heads = ("task", "minutes", "first", "bar", "end", "in no rung", "winner", "figure", "regret",
             "TF-IDF", "SetFit", "AutoGluon")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for r in results:
        rivals = {p.name: p.value for p in r.peers}
        beside = (rivals.get(name) for name in heads[-3:])
        cells = [
            r.task, f"{r.minutes:g}",
            told(r.first), told(r.bar), told(r.end), f"{r.idle:.0%}", r.winner,
            f"{r.metric} {r.value:.3f} [{r.low:.3f}, {r.high:.3f}]",
            "-" if r.regret is None else f"{r.regret:.1f}",
            *("-" if value is None else f"{value:.3f}" for value in beside),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def record(results: Sequence[Result], args: argparse.Namespace) -> None:
    """Append the table with the machine it was measured on."""
    beside = ", beside a process that burns one core" if args.burn else ""
    lines = [
        f"\n## Climbs on real tasks, {datetime.date.today().isoformat()}\n",
        f"{report.machine()}; {args.base}{beside}.\n",
        *table(results),
    ]
    with report.RESULTS.open("a") as out:
        out.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
