"""lm-evaluation-harness's side of bench/eval.py; bench/eval_rung.py documents job and result.

Its own tasks read the same JSON lines. Timed are its model's calls, tokenising included, without
loading, reading the task and writing the report. Every task gets the batch size that a trial on its
first items finds fastest; the trial is not counted.
"""

from __future__ import annotations

import importlib.metadata
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

TRIAL = 8  # items, the largest batch that they can fill included


class Timed(HFLM):
    """HFLM with a clock on what it is asked."""

    seconds = 0.0

    def loglikelihood(self, *args: Any, **kwargs: Any) -> Any:
        return self._clocked(super().loglikelihood, args, kwargs)

    def generate_until(self, *args: Any, **kwargs: Any) -> Any:
        return self._clocked(super().generate_until, args, kwargs)

    def _clocked(self, call: Any, args: Any, kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    model = AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(job["base"])
    found = {}
    for task in job["tasks"]:
        size = fastest(model, tokenizer, task, job["batch_sizes"])
        seconds, samples = run(model, tokenizer, task, size)
        found[task["name"]] = {"seconds": seconds, "batch_size": size, **answers(samples)}
    result = {
        "tasks": found,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "threads": torch.get_num_threads(),
        "versions": {n: importlib.metadata.version(n) for n in ("lm_eval", "transformers", "torch")},
    }
    Path(sys.argv[2]).write_text(json.dumps(result))


def fastest(model: Any, tokenizer: Any, task: dict[str, Any], sizes: list[int]) -> int:
    """The batch size that suits the harness best."""
    if len(sizes) == 1:
        return sizes[0]
    return min(sizes, key=lambda size: run(model, tokenizer, task, size, TRIAL)[0])


def run(
    model: Any, tokenizer: Any, task: dict[str, Any], size: int, limit: int | None = None
) -> tuple[float, list[dict[str, Any]]]:
    """Seconds and samples of a task, or of its first items."""
    lm = Timed(model, tokenizer=tokenizer, device="cpu", batch_size=size)
    out = simple_evaluate(lm, tasks=[config(task)], limit=limit, bootstrap_iters=0, log_samples=True)
    return lm.seconds, sorted(out["samples"][task["name"]], key=lambda s: s["doc_id"])


def config(task: dict[str, Any]) -> dict[str, Any]:
    """The task in the harness's words."""
    common = {
        "task": task["name"],
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": task["items"]}},
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "num_fewshot": 0,  # the examples stand in the prompt already
    }
    if not task["most"]:
        return {
            **common,
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "target_delimiter": " ",
            "metric_list": [{"metric": "acc"}],
        }
    return {
        **common,
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": task["most"], "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }


def answers(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """What it found, item by item."""
    if "acc" in samples[0]:
        scores = [[value for ((value, _),) in sample["resps"]] for sample in samples]
        return {"scores": scores, "texts": None, "right": [int(s["acc"]) for s in samples]}
    texts = [sample["resps"][0][0] for sample in samples]
    right = [int(t.strip() == s["target"]) for t, s in zip(texts, samples, strict=True)]
    return {"scores": None, "texts": texts, "right": right}


if __name__ == "__main__":
    main()
