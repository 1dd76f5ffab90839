"""lm-evaluation-harness through the server and without it: `local-completions` beside its own `hf`.

    make harness-server
    make harness-server ARGS="--items 12"

The three tasks of bench/eval.py, five examples in front of each item. `rung serve` answers on loopback
what the harness's model `local-completions` asks (token ids with `echo` and `logprobs`, and greedy
generation); its model `hf` computes the same in a process of its own. The run fails when a score, an
item's outcome or an item's "greedy" differs, or a log-likelihood by more than 1e-3.

The job that bench/peers/harness_models.py reads:

    model, arguments   of the harness, as `lm_eval --model MODEL --model_args ARGUMENTS` takes them
    tasks, batch_size  as in bench/eval_rung.py
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.eval_items import TASKS, items_of

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "bench" / "harness"
PEER_PYTHON = ROOT / "bench" / ".peers" / "bin" / "python"
PEER = ROOT / "bench" / "peers" / "harness_models.py"
TOLERANCE = 1e-3  # nats


def prepare(items: int) -> list[dict[str, Any]]:
    """Write the items; the tasks as both runs read them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    tasks = []
    for task in TASKS:
        path = FOLDER / f"{task.name}.jsonl"
        path.write_text("".join(json.dumps(i) + "\n" for i in items_of(task, items)))
        tasks.append({"name": task.name, "items": str(path), "most": task.most})
    return tasks


@contextlib.contextmanager
def server(base: str) -> Iterator[str]:
    """`rung serve` on a free port; gives its address."""
    command = [sys.executable, "-u", "-m", "rung.cli", "serve", base, "--port", "0", "--jobs", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("serving at "):
            raise SystemExit("the server did not start")
        yield line.removeprefix("serving at ").strip()
    finally:
        process.terminate()
        process.wait(60)


def scores(model: str, arguments: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """What the harness finds with one of its models, in a process of its own."""
    path, result = FOLDER / f"harness-{model}.json", FOLDER / f"harness-{model}-result.json"
    path.write_text(json.dumps({**job, "model": model, "arguments": arguments}))
    result.unlink(missing_ok=True)
    with (FOLDER / f"harness-{model}.log").open("w") as log:
        done = subprocess.run(
            [str(PEER_PYTHON), str(PEER), str(path), str(result)],
            cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{model} failed:\n{Path(log.name).read_text()[-2000:]}")
    return json.loads(result.read_text())


def differences(name: str, direct: dict[str, Any], served: dict[str, Any]) -> list[str]:
    """What differs between the two runs of a task, one line each."""
    faults = [
        f"{name}: {key} differ: {direct[key]} and {served[key]}"
        for key in ("results", "right", "greedy", "texts")
        if direct[key] != served[key]
    ]
    if direct["scores"] is not None and apart(direct, served) > TOLERANCE:
        faults.append(f"{name}: log-likelihoods differ by {apart(direct, served):.1e}")
    return faults


def apart(direct: dict[str, Any], served: dict[str, Any]) -> float:
    """The largest difference of two log-likelihoods."""
    pairs = zip(direct["scores"], served["scores"], strict=True)
    return max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.harness_server", description="The harness through the server."
    )
    parser.add_argument("--items", type=int, default=24, help="of each task")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    from rung import bases

    job = {"tasks": prepare(args.items), "batch_size": args.batch_size}
    folder = str(bases.resolve(args.base).path)
    with server(args.base) as address:
        arguments = {
            "model": args.base, "base_url": f"{address}/completions", "tokenizer": folder,
            "tokenizer_backend": "huggingface", "num_concurrent": 1, "max_length": 8192,
        }  # fmt: skip
        served = scores("local-completions", arguments, job)
    direct = scores("hf", {"pretrained": folder, "dtype": "float32", "device": "cpu"}, job)
    faults = []
    for name, found in direct["tasks"].items():
        theirs = served["tasks"][name]
        told = ", ".join(f"{k.split(',')[0]} {v:.3f}" for k, v in found["results"].items())
        same = ", ".join(f"{v:.3f}" for v in theirs["results"].values())
        print(f"{name:16} {len(found['right'])} items: hf {told}; local-completions {same}")
        if found["scores"] is not None:
            print(f"{'':16} log-likelihoods at most {apart(found, theirs):.1e} apart")
        faults += differences(name, found, theirs)
    print(f"seconds: hf {direct['seconds']:.1f}, local-completions {served['seconds']:.1f}")
    for fault in faults:
        print(f"FAULT {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
