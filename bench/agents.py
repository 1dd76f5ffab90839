"""An agent beside the rungs around it, on sums that the base cannot work out alone.

    make bench-agents                                # two tasks, a quarter of an hour each
    make bench-agents ARGS="--tasks determinants --rows 120 --budget 5m"

Rows are of OpenAI's evals: determinants of matrices of 1 to 3 rows whose answer exact arithmetic
gives (others of the set were worked out in floating point), and linear equations of 2 and 3 unknowns.
Training rows show the call of a calculator and its result, so that LoRA learns calls and the agent may
show them; every rung is asked the same questions and measured by the answer, in one `rung climb`. The
equations' measure passes over punctuation, signs with it, for every rung alike. It fails where neither
the agent nor the tuned caller is above both others by more than the interval.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.agents_equations import solve
from bench.agents_tools import determinant

PACKAGE, FOLDER = "evals==3.0.1.post1", "evals/registry/data"
CALLERS, OTHERS = ("agent", "lora"), ("zero_shot", "chain_of_thought")
MAX_SIZE = 3  # rows of a matrix
NUMBERS = re.compile(r"\[[^\[\]]*\]")  # a row of a matrix as it is printed

Called = tuple[dict[str, Any], str]  # arguments of the call, and what it gives


@dataclass(frozen=True)
class Sums:
    """Rows of a package that one call answers.

    Attributes:
        called: the call of a question and its result; None where its answer is another.
        said: the final answer around a result.
    """

    member: str
    tool: str
    file: str
    metric: str
    called: Callable[[str, str], Called | None]
    said: str = "{}"


def of_determinant(question: str, ideal: str) -> Called | None:
    matrix = json.loads(question)
    if len(matrix) > MAX_SIZE or determinant(matrix) != ideal:
        return None
    return {"matrix": matrix}, ideal


def of_equations(question: str, ideal: str) -> Called | None:
    left, right = question.partition("A =")[2].split(" and b = ")
    matrix = [[int(n) for n in row[1:-1].split()] for row in NUMBERS.findall(left)]
    vector = [int(row[1:-1]) for row in NUMBERS.findall(right.partition(". Provide")[0])]
    found = solve(matrix, vector)
    return ({"matrix": matrix, "vector": vector}, found) if ideal == f"x = {found}" else None


TASKS = {
    "determinants": Sums(
        "determinant", "determinant", "agents_tools.py", "number_match", of_determinant
    ),
    "equations": Sums(
        "linear_equations", "solve", "agents_equations.py", "exact_match", of_equations, "x = {}"
    ),
}


def rows(sums: Sums, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Conversations with a call, its result and the answer, drawn from the package's rows."""
    from rung.bases import wheel

    member = wheel.member(PACKAGE, f"{FOLDER}/{sums.member}/samples.jsonl")
    found = []
    for line in member.read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        *asked, question = sample["input"]
        called = sums.called(question["content"], sample["ideal"])
        if called is None:
            continue
        arguments, result = called
        call = {"name": sums.tool, "arguments": json.dumps(arguments)}
        found.append({"messages": [
            *asked, question,
            {"role": "assistant", "content": None,
             "tool_calls": [{"id": "call_1", "type": "function", "function": call}]},
            {"role": "tool", "tool_call_id": "call_1", "content": result},
            {"role": "assistant", "content": sums.said.format(result)},
        ]})  # fmt: skip
    random.Random(seed).shuffle(found)
    return found[:count]


def climbed(sums: Sums, data: Path, home: Path, budget: str) -> dict[str, Any]:
    """Run the climb; its scorecard."""
    tools = Path(__file__).with_name(sums.file)
    command = [
        sys.executable, "-m", "rung", "climb", str(data), "--tools", str(tools),
        "--base", "smollm2-135m", "--bar", f"{sums.metric}=0.99", "--all", "--budget", budget,
        "--name", data.stem, "--json",
        *[word for rung in (*OTHERS, *CALLERS) for word in ("--only", rung)],
        "--test", "0.3", "--validation", "0.2",
    ]  # fmt: skip
    environment = {**os.environ, "RUNG_HOME": str(home)}
    done = subprocess.run(command, env=environment, cwd=home.parent, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1):  # 1: the bar was not cleared
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def told(metric: str, found: dict[str, Any]) -> int:
    """Print each rung's figures on rows of validation; 0 where calling tools is shown to be better."""
    print(f"{'rung':<18}{metric:>14}{'interval':>18}{'making':>10}{'a request':>11}{'tokens':>8}")
    seen = {}
    for rung in found["rungs"]:
        measured = rung.get("validation")
        if not measured:
            print(f"{rung['key']:<18}{rung['status']}: {rung.get('reason') or ''}")
            continue
        cost, low, high = rung["cost"], measured["low"], measured["high"]
        seen[rung["key"]] = measured
        print(
            f"{rung['key']:<18}{measured['value']:>14.3f}{f'[{low:.3f}, {high:.3f}]':>18}"
            f"{cost['seconds']:>8.0f} s{cost['request_seconds']:>9.2f} s{cost['request_tokens']:>8.0f}"
        )
    print(found["verdict"]["says"])
    callers = [seen[name]["low"] for name in CALLERS if name in seen]
    others = [seen[name]["high"] for name in OTHERS if name in seen]
    shown = bool(callers) and len(others) == len(OTHERS) and max(callers) > max(others)
    print(
        "calling is better by more than the intervals" if shown else "calling is not shown to be better"
    )
    return 0 if shown else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"some of {', '.join(TASKS)}")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--budget", default="30m")
    args = parser.parse_args()
    failed = 0
    for name in args.tasks.split(","):
        sums = TASKS[name]
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / f"{name}.jsonl"
            drawn = rows(sums, args.rows)
            data.write_text("".join(json.dumps(r) + "\n" for r in drawn), encoding="utf-8")
            print(f"\n{name}: {len(drawn)} rows", flush=True)
            failed |= told(sums.metric, climbed(sums, data, Path(folder) / "home", args.budget))
    sys.exit(failed)


if __name__ == "__main__":
    main()
