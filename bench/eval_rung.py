"""Rung's side of bench/eval.py. Usage: python -m bench.eval_rung JOB RESULT.

The job, a JSON file that the peer reads too:

    base     folder of the base; float32 on the CPU
    tasks    [{"name", "items": file of JSON lines with prompt, choices, answer; "most": tokens}]

The result, per task:

    seconds  from the texts to the answers, tokenising included; without loading the base
    scores   [[log-likelihood of each choice]], or null
    texts    [generated text], or null
    right    [0 or 1]
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

from rung import bases
from rung.data import Template
from rung.engine import Engine, GenerationRequest, ServedModel
from rung.evals.predict import MAX_BATCH
from rung.evals.scoring import Item, score
from rung.forward.bank import Bank
from rung.types import BaseInfo, Decoding, Prompt


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    loaded = bases.load(BaseInfo("bench", "bench", job["base"], "bench"), dtype="float32", device="cpu")
    bank = Bank(loaded.model)
    template = Template.of(loaded.tokenizer, generation_config=loaded.model.generation_config)
    model = ServedModel.of("bench", -1, template)
    score(bank, -1, [Item((1, 2, 3), ((4,),))])  # whatever is set up once per process,
    Engine(bank, {model.name: model}, max_batch=MAX_BATCH).arrange()  # packed weights among it
    found = {}
    for task in job["tasks"]:
        lines = Path(task["items"]).read_text().splitlines()
        items = [json.loads(line) for line in lines]
        found[task["name"]] = (choose if items[0]["choices"] else generate)(bank, model, items, task)
    result = {
        "tasks": found,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "threads": torch.get_num_threads(),
        "versions": {n: importlib.metadata.version(n) for n in ("rung", "transformers", "torch")},
    }
    Path(sys.argv[2]).write_text(json.dumps(result))


def choose(bank: Bank, model: ServedModel, items: list[dict[str, Any]], task: dict[str, Any]) -> Any:
    """Score each choice behind a blank."""
    start = time.perf_counter()
    asked = encode(model.template.tokenizer, items)
    scores = score(bank, model.slot, asked)
    picked = [max(range(len(s)), key=s.__getitem__) for s in scores]
    seconds = time.perf_counter() - start
    right = [int(p == i["answer"]) for p, i in zip(picked, items, strict=True)]
    return {"seconds": seconds, "scores": scores, "texts": None, "right": right}


def encode(tokenizer: Any, items: list[dict[str, Any]]) -> list[Item]:
    """Prompt and choice are encoded together, as the harness does, and cut behind the prompt."""
    texts = [[i["prompt"], *(f"{i['prompt']} {c}" for c in i["choices"])] for i in items]
    rows = iter(tokenizer([t for one in texts for t in one])["input_ids"])
    found = []
    for one in texts:
        prompt, *whole = (next(rows) for _ in one)
        found.append(Item(tuple(prompt), tuple(tuple(row[len(prompt) :]) for row in whole)))
    return found


def generate(bank: Bank, model: ServedModel, items: list[dict[str, Any]], task: dict[str, Any]) -> Any:
    """Continue each prompt to the end of its line, greedily."""
    start = time.perf_counter()
    encoded = model.template.tokenizer([i["prompt"] for i in items])["input_ids"]
    decoding = Decoding(max_tokens=task["most"], stop=("\n",))
    requests = [GenerationRequest(model.name, Prompt(tuple(ids)), decoding) for ids in encoded]
    engine = Engine(bank, {model.name: model}, max_batch=min(len(requests), MAX_BATCH))
    engine.arrange()
    texts = [completion.text for completion in engine.generate(requests)]
    seconds = time.perf_counter() - start
    right = [int(t.strip() == i["answer"]) for t, i in zip(texts, items, strict=True)]
    return {"seconds": seconds, "scores": None, "texts": texts, "right": right}


if __name__ == "__main__":
    main()
