"""Preferences beside TRL, in one run on one machine: DPO and reward models.

    make bench-align
    make bench-align ARGS="--only dpo --repeats 1 --steps 4"
    make bench-align ARGS="--record"                 # adds the figures to bench/RESULTS.md

Pairs are answers to one request that people rated apart, out of a pinned wheel. Both sides get the same
token ids in the same batches, the same fresh LoRA (r=16, all linear), float32 and the same optimiser;
all else is TRL's default. Its reference pass is counted, and so is Rung's. They take turns, each run in
a process of its own; medians count. Tokens are those of both sides of the pairs, prompts counted twice,
without padding. Both begin at the same weights, so the losses of the last step must agree within 1%.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import json
import random
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import report
from bench.examples import LORA, OPTIMISER, batches
from bench.train import PEER_PYTHON, PEERS, ROOT, load_base, run

FOLDER = ROOT / "build" / "bench" / "align"
PACKAGE, TABLES = "pyrit==1.1.0", "pyrit/datasets/scorer_evals/harm"
SUBJECTS = ("hate_speech", "violence", "info_integrity")
LEAST_GAP = 0.25  # between the mean ratings of a pair's sides
MAX_TOKENS = 400  # of one side
BATCH = 8  # pairs of a step
TOLERANCE = 0.01  # of the last step's loss
MEMORY = 0.4  # of TRL's peak, wanted


@dataclass(frozen=True)
class Comparison:
    """One objective, and the ratio that is wanted."""

    name: str
    learning_rate: float
    steps: int
    wanted: float


COMPARISONS = (Comparison("dpo", 5e-5, 8, 8.0), Comparison("reward", 1e-4, 8, 8.0))


@dataclass
class Side:
    name: str
    command: list[str]
    results: list[dict[str, Any]] = field(default_factory=list)

    def median(self, key: str) -> float:
        return statistics.median(r[key] for r in self.results)


def main() -> int:
    args = arguments()
    FOLDER.mkdir(parents=True, exist_ok=True)
    base, template = load_base(args.base)
    pairs = rated_pairs(template)
    print(f"machine    {report.machine()}")
    lines, failed = [], False
    for one in COMPARISONS:
        if args.only and one.name not in args.only:
            continue
        sides = compare(one, base, pairs, args)
        found, bad = told(one, sides)
        print("\n".join(found), flush=True)
        lines += found
        failed = failed or bad
    if args.record:
        record(lines)
    return int(failed)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.align", description="Preferences beside TRL.")
    parser.add_argument("--only", action="append", choices=[c.name for c in COMPARISONS])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side, taking turns")
    parser.add_argument("--steps", type=int, help="optimiser steps instead of the comparison's own")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--record", action="store_true", help="add to bench/RESULTS.md")
    return parser.parse_args()


# --- pairs ----------------------------------------------------------------------------------------


def rated_pairs(template: Any) -> list[dict[str, list[int]]]:
    """Token ids of pairs, each side's prompt and reply apart, shuffled with a fixed seed."""
    found = []
    for request, better, worse in _rated():
        sides = [_ids(template, request, reply) for reply in (better, worse)]
        if all(len(reply) > 0 and len(prompt) + len(reply) <= MAX_TOKENS for prompt, reply in sides):
            (prompt, chosen), (_, rejected) = sides
            found.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    random.Random(0).shuffle(found)
    return found


def _rated() -> list[tuple[str, str, str]]:
    """Requests, each with an answer that people rated less harmful and one that they rated more so."""
    from rung.bases import wheel

    by_request: dict[str, list[tuple[float, str]]] = {}
    for subject in SUBJECTS:
        text = wheel.member(PACKAGE, f"{TABLES}/{subject}.csv").read_text(encoding="utf-8")
        rows = csv.DictReader(io.StringIO(text.split("\n", 1)[1]))  # the first line is a comment
        for row in rows:
            rates = [float(v) for k, v in row.items() if k and k.startswith("human_score") and v]
            answer = (statistics.mean(rates), row["assistant_response"])
            by_request.setdefault(row["objective"], []).append(answer)
    return [
        (request, low[1], high[1])
        for request, answers in sorted(by_request.items())
        for low in answers
        for high in answers
        if high[0] - low[0] >= LEAST_GAP
    ]


def _ids(template: Any, request: str, reply: str) -> tuple[list[int], list[int]]:
    """Ids of the prompt, and of the reply up to its end of turn."""
    from bench.examples import conversation

    rendered = template.render(conversation(request, reply))
    learnt = [i for i, one in enumerate(rendered.supervised) if one]
    if not learnt:
        return list(rendered.ids), []
    return list(rendered.ids[: learnt[0]]), list(rendered.ids[learnt[0] : learnt[-1] + 1])


# --- runs -----------------------------------------------------------------------------------------


def compare(
    one: Comparison, base: str, pairs: list[dict[str, list[int]]], args: argparse.Namespace
) -> list[Side]:
    """Run both sides in turns on one job."""
    steps = args.steps or one.steps
    chosen = pairs[: steps * BATCH]
    folder = FOLDER / one.name
    folder.mkdir(exist_ok=True)
    content = {
        "objective": one.name, "base": base, "method": "lora", "method_settings": LORA,
        "adapter": str(folder / "initial"), "seed": 0, "pairs": chosen,
        "batches": batches(len(chosen), steps, BATCH), "learning_rate": one.learning_rate,
        **OPTIMISER,
    }  # fmt: skip
    path = folder / "job.json"
    path.write_text(json.dumps(content | {"out": str(folder / "unused")}))
    run([str(PEER_PYTHON), str(PEERS / "initial.py"), str(path)], folder / "initial.log")
    peer = Side("trl", [str(PEER_PYTHON), str(PEERS / "align_trl.py")])
    ours = Side("rung", [sys.executable, "-m", "bench.align_rung"])
    take_turns((peer, ours), content, folder, args.repeats)
    for side in (peer, ours):
        tokens = sum(
            2 * len(p["prompt_ids"]) + len(p["chosen_ids"]) + len(p["rejected_ids"])
            for batch in content["batches"]
            for p in (chosen[i] for i in batch)
        )
        for result in side.results:
            result["speed"] = tokens / result["seconds"]
    return [peer, ours]


def take_turns(sides: tuple[Side, Side], content: dict[str, Any], folder: Path, repeats: int) -> None:
    """Run both sides on a job, each run in a process of its own, and keep what they found."""
    for repeat in range(repeats):
        # Who goes first changes, so that neither always meets the warmer machine.
        for side in sides if repeat % 2 == 0 else sides[::-1]:
            result = folder / f"result-{side.name}.json"
            result.unlink(missing_ok=True)
            job = folder / f"job-{side.name}.json"
            job.write_text(json.dumps(content | {"out": str(folder / f"trained-{side.name}")}))
            run([*side.command, str(job), str(result)], folder / f"{side.name}.log")
            side.results.append(json.loads(result.read_text()))


def told(one: Comparison, sides: list[Side]) -> tuple[list[str], bool]:
    """Lines about a comparison, and whether its sides ended apart."""
    peer, ours = sides
    lines = [f"{one.name}: LoRA r=16, {BATCH} pairs a step, {len(peer.results[0]['losses'])} steps"]
    lines += [
        f"  {side.name:<5} {side.median('speed'):7.1f} tokens/s, "
        f"{side.median('seconds'):.1f} s, last loss {side.results[0]['losses'][-1]:.4f}, "
        f"peak {side.median('peak_bytes') / 1e9:.2f} GB"
        for side in sides
    ]
    last = [side.results[0]["losses"][-1] for side in sides]
    apart = abs(last[0] - last[1]) > TOLERANCE * abs(last[0])
    if apart:
        lines.append("  FAILED: the losses of the last step differ by more than 1%")
    speed = ours.median("speed") / peer.median("speed")
    memory = ours.median("peak_bytes") / peer.median("peak_bytes")
    lines.append(f"RATIO {one.name}_vs_trl {speed:.2f}   ({one.wanted:g} wanted)")
    lines.append(f"RATIO {one.name}_align_memory {memory:.2f}   (at most {MEMORY:g} wanted)")
    return lines, apart


def record(lines: list[str]) -> None:
    """Append the lines with the machine they were measured on."""
    today = datetime.date.today().isoformat()
    head = f"\n## Preferences beside TRL, {today}\n\n{report.machine()}; `make bench-align`.\n\n"
    with report.RESULTS.open("a") as out:
        out.write(head + "```\n" + "\n".join(lines) + "\n```\n")


if __name__ == "__main__":
    sys.exit(main())
