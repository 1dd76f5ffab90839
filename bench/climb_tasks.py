"""Climbs on eight real tasks at several budgets, beside scikit-learn's TF-IDF on the same split.

    make bench-climb-tasks                                      # all tasks at 1, 5 and 20 minutes
    make bench-climb-tasks ARGS="--task laws --budget 1m"       # one of them
    make bench-climb-tasks ARGS="--burn"                        # beside a process that burns one core
    make bench-climb-tasks ARGS="--oracle 4h --record"          # all rungs on all rows, as a yardstick

Every climb is a process of its own with an empty home, so that nothing is known before but the wheels
and the converted base. Of each the table has: seconds from the data being read to the first figure, to
the first figure that clears the bar (two points under the best known: the oracle's or the peer's), and
to the end; the share of the budget that went into no rung; the winner on the test rows with its
interval; and what TF-IDF with logistic regression, on words and characters, gives on the same rows.
The run fails where a climb ends after 1.1 times its budget, its first figure takes over 15 s, more than
a tenth of the budget went into no rung, or the winner is worse than the peer beyond its interval.
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
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from bench import report
from bench.climb import LOGS, Home

EVALS = "wheel:evals==3.0.1.post1/evals/registry/data"
FIRST, OVER, IDLE = 15.0, 1.1, 0.1  # seconds; times the budget; share of the budget
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
    """One climb. `first` and `bar` are seconds after the data was read, `end` since the start."""

    task: str
    budget: float
    first: float | None
    bar: float | None
    end: float
    idle: float
    winner: str
    value: float
    low: float
    high: float
    peer: float | None
    metric: str

    def faults(self) -> list[str]:
        """What was promised and not kept."""
        found = []
        if self.end > OVER * self.budget:
            found.append(f"ended after {self.end:.0f} s")
        if self.first is None or self.first > FIRST:
            found.append(f"first figure after {self.first} s")
        if self.idle > IDLE:
            found.append(f"{self.idle:.0%} of the budget in no rung")
        if self.peer is not None and self.high < self.peer:
            found.append(f"{self.metric} {self.value:.3f} beside {self.peer:.3f}")
        return [f"{self.task} at {self.budget / 60:g} min: {fault}" for fault in found]


def main() -> int:
    args = arguments()
    LOGS.mkdir(parents=True, exist_ok=True)
    print(f"machine    {report.machine()}\n", flush=True)
    tasks = [t for t in TASKS if not args.task or t.name in args.task]
    results, faults = [], []
    with burning(args.burn):
        for task in tasks:
            best, metric = peer(task)
            known = oracle(task, args) if args.oracle else None
            for budget in args.budget:
                result = climb(task, budget, args, best, known)
                results.append(result)
                faults += result.faults()
                print(line(result, known), flush=True)
    if args.record:
        record(results, args)
    for fault in faults:
        print(f"FAILED: {fault}")
    return 1 if faults else 0


def arguments() -> argparse.Namespace:
    names = [t.name for t in TASKS]
    parser = argparse.ArgumentParser(prog="bench.climb_tasks", description="Climbs on real tasks.")
    parser.add_argument("--task", action="append", choices=names, help="repeat for several")
    parser.add_argument("--budget", action="append", help="repeat for several; 1m, 5m, 20m by default")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--oracle", metavar="BUDGET", help="climb with --all first, as a yardstick")
    parser.add_argument("--burn", action="store_true", help="beside a process that burns one core")
    parser.add_argument("--record", action="store_true", help="add to bench/RESULTS.md")
    args = parser.parse_args()
    args.budget = args.budget or ["1m", "5m", "20m"]
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
    task: Task, budget: str, args: argparse.Namespace, peer: float | None, known: float | None
) -> Result:
    """One climb in a process of its own, its lines timed as they come."""
    from rung.config import Duration

    words = [task.source, "--base", args.base, "--budget", budget, "--name", "bench", "--json"]
    words += ["--limit", str(task.rows)] if task.rows else []
    best = max((v for v in (peer, known) if v is not None), default=None)
    with Home() as home:
        began = time.perf_counter()
        card, seen = run(
            home, f"tasks-{task.name}-{budget}", [*words, "--report", str(home / "r.html")]
        )
        end = time.perf_counter() - began
    verdict, seconds = card["verdict"], Duration(budget).seconds
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0, "metric": card["task"]["metric"]}
    on_validation = {r["key"]: r["validation"] for r in card["rungs"]}
    winner = verdict["winner"] or "none"
    figure = (verdict.get("test") or {}).get(winner) or on_validation.get(winner) or nothing
    scale = 100.0 if figure["value"] > 1 else 1.0
    over = [at for at, value in seen.figures if best is not None and value >= best - 0.02 * scale]
    idle = max(0.0, (card["seconds"] - card["working"]) / max(seconds, card["seconds"]))
    return Result(
        task.name, seconds, seen.figures[0][0] if seen.figures else None, min(over, default=None), end,
        idle, winner, figure["value"], figure["low"], figure["high"], peer, figure["metric"],
    )  # fmt: skip


@dataclass
class Seen:
    """Seconds after the data was read at which figures stood in the table."""

    figures: list[tuple[float, float]]


def run(home: Any, log: str, words: list[str]) -> tuple[dict[str, Any], Seen]:
    """The command's JSON, and when its lines came."""
    path, seen, read = LOGS / f"{log}.log", Seen([]), time.perf_counter()
    with path.open("w") as out, subprocess.Popen(
        [sys.executable, "-m", "rung.cli", "climb", *words], env=os.environ | {"RUNG_HOME": str(home)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None and process.stdout is not None
        for text in process.stderr:
            out.write(text)
            if text.lstrip().startswith("data "):
                read = time.perf_counter()
            if found := RUNG.match(text):
                seen.figures.append((time.perf_counter() - read, float(found[2])))
        said = process.stdout.read()
    if process.returncode:
        tail = "\n".join(path.read_text().splitlines()[-15:])
        raise SystemExit(f"rung climb {' '.join(words)} failed, see {path}:\n{tail}")
    return json.loads(said), seen


def oracle(task: Task, args: argparse.Namespace) -> float:
    """The best figure on validation of all rungs with all their rows."""
    words = [task.source, "--base", args.base, "--budget", args.oracle, "--all", "--name", "oracle",
             "--json"]  # fmt: skip
    words += ["--limit", str(task.rows)] if task.rows else []
    with Home() as home:
        card, _ = run(home, f"tasks-{task.name}-oracle", [*words, "--report", str(home / "r.html")])
    return max(r["validation"]["value"] for r in card["rungs"] if r["validation"])


def peer(task: Task) -> tuple[float | None, str]:
    """Words and characters through TF-IDF and logistic regression, on the climb's own split."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    from rung import data
    from rung.config import resolve
    from rung.data.knobs import DataKnobs
    from rung.evals.measure import measure
    from rung.evals.predict import Answers
    from rung.evals.tasks import detect, question, reply

    (knobs,) = resolve([DataKnobs], {"data": task.source, "limit": task.rows})
    splits = data.split(data.load(knobs), knobs)
    found = detect(splits.train)
    if found.kind != "classification":
        return None, found.metric
    texts = {
        part: ["\n".join(m["content"] for m in question(e)) for e in rows] for part, rows in splits
    }
    union = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=50_000),
    )
    fitted = make_pipeline(union, LogisticRegression(C=10, max_iter=300))
    fitted.fit(texts["train"], [reply(e) for e in splits.train])
    said = Answers(list(fitted.predict(texts["test"])))
    return measure(said, splits.test, found).value, found.metric


def line(result: Result, known: float | None) -> str:
    """A result on one line."""

    def told(seconds: float | None) -> str:
        return "-" if seconds is None else f"{seconds:.0f} s"

    beside = "" if result.peer is None else f", TF-IDF {result.peer:.3f}"
    best = "" if known is None else f", oracle {known:.3f} on validation"
    return (
        f"{result.task:<8} {result.budget / 60:>3g} min: {result.winner} {result.metric} "
        f"{result.value:.3f} [{result.low:.3f}, {result.high:.3f}]{beside}{best}; first figure "
        f"{told(result.first)}, bar {told(result.bar)}, end {result.end:.0f} s, idle {result.idle:.0%}"
    )


def record(results: list[Result], args: argparse.Namespace) -> None:
    """Append a table with the machine it was measured on."""
    beside = ", beside a process that burns one core" if args.burn else ""
    heads = ("task", "budget, s", "first, s", "bar, s", "end, s", "idle", "winner", "figure", "TF-IDF")
    lines = [
        f"\n## Climbs on real tasks, {datetime.date.today().isoformat()}\n",
        f"{report.machine()}; {args.base}{beside}.\n",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for result in results:
        r = asdict(result)
        cells = [
            r["task"], f"{r['budget']:.0f}",
            *("-" if r[k] is None else f"{r[k]:.0f}" for k in ("first", "bar")),
            f"{r['end']:.0f}", f"{r['idle']:.0%}", r["winner"],
            f"{r['metric']} {r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]",
            "-" if r["peer"] is None else f"{r['peer']:.3f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    with report.RESULTS.open("a") as out:
        out.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
