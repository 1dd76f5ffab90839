"""lm-evaluation-harness on one of its own models; bench/harness_server.py documents the job.

python bench/peers/harness_models.py JOB RESULT
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from pathlib import Path

from eval_harness import answers, config
from lm_eval import simple_evaluate


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    start = time.perf_counter()
    out = simple_evaluate(
        job["model"],
        model_args=job["arguments"],
        tasks=[config(task) for task in job["tasks"]],
        batch_size=job["batch_size"],
        bootstrap_iters=0,
        log_samples=True,
    )
    found = {}
    for task in job["tasks"]:
        samples = sorted(out["samples"][task["name"]], key=lambda s: s["doc_id"])
        figures = {k: v for k, v in out["results"][task["name"]].items() if isinstance(v, float)}
        found[task["name"]] = {**answers(samples), "results": figures, "greedy": greedy(samples)}
    result = {
        "tasks": found,
        "seconds": time.perf_counter() - start,
        "versions": {n: importlib.metadata.version(n) for n in ("lm_eval", "transformers", "torch")},
    }
    Path(sys.argv[2]).write_text(json.dumps(result))


def greedy(samples: list) -> list[list[bool]] | None:
    """Whether each choice is what greedy decoding would have written."""
    if "acc" not in samples[0]:
        return None
    return [[bool(is_greedy) for ((_, is_greedy),) in sample["resps"]] for sample in samples]


if __name__ == "__main__":
    main()
