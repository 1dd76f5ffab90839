"""An agent beside the rungs around it, on determinants that the base cannot work out alone.

    make bench-agents                                # half an hour
    make bench-agents ARGS="--rows 120 --budget 5m"

Rows are of OpenAI's evals: matrices of 1 to 3 rows whose answer exact arithmetic gives (others of the
set were worked out in floating point). Training rows show the call of a calculator and its result, so
that LoRA learns calls and the agent may show them; every rung is asked the same questions and measured
by the exact answer, in one `rung climb`. It fails where neither the agent nor the tuned caller is above
both others by more than the interval.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.agents_tools import determinant

MEMBER = ("evals==3.0.1.post1", "evals/registry/data/determinant/samples.jsonl")
TOOLS = Path(__file__).with_name("agents_tools.py")
CALLERS, OTHERS = ("agent", "lora"), ("zero_shot", "chain_of_thought")
MAX_SIZE = 3  # rows of a matrix


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Conversations with a call, its result and the answer, drawn from the package's rows."""
    from rung.bases import wheel

    lines = wheel.member(*MEMBER).read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines:
        sample = json.loads(line)
        *asked, question = sample["input"]
        matrix = json.loads(question["content"])
        if len(matrix) > MAX_SIZE or determinant(matrix) != sample["ideal"]:
            continue
        call = {"name": "determinant", "arguments": json.dumps({"matrix": matrix})}
        found.append({"messages": [
            *asked, question,
            {"role": "assistant", "content": None,
             "tool_calls": [{"id": "call_1", "type": "function", "function": call}]},
            {"role": "tool", "tool_call_id": "call_1", "content": sample["ideal"]},
            {"role": "assistant", "content": sample["ideal"]},
        ]})  # fmt: skip
    random.Random(seed).shuffle(found)
    return found[:count]


def climbed(data: Path, home: Path, budget: str) -> dict[str, Any]:
    """Run the climb; its scorecard."""
    command = [
        sys.executable, "-m", "rung", "climb", str(data), "--tools", str(TOOLS),
        "--base", "smollm2-135m", "--bar", "number_match=0.99", "--all", "--budget", budget,
        "--name", "determinants", "--json",
        *[word for rung in (*OTHERS, *CALLERS) for word in ("--only", rung)],
        "--test", "0.3", "--validation", "0.2",
    ]  # fmt: skip
    environment = {**os.environ, "RUNG_HOME": str(home)}
    done = subprocess.run(command, env=environment, cwd=home.parent, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1):  # 1: the bar was not cleared
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def told(found: dict[str, Any]) -> int:
    """Print each rung's figures on rows of validation; 0 where calling tools is shown to be better."""
    print(
        f"{'rung':<18}{'number_match':>14}{'interval':>18}{'making':>10}{'a request':>11}{'tokens':>8}"
    )
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
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--budget", default="30m")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "determinants.jsonl"
        drawn = rows(args.rows)
        data.write_text("".join(json.dumps(r) + "\n" for r in drawn), encoding="utf-8")
        print(f"{len(drawn)} rows", flush=True)
        found = climbed(data, Path(folder) / "home", args.budget)
    sys.exit(told(found))


if __name__ == "__main__":
    main()
