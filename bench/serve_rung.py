"""Rung's side of bench/serve.py: `rung serve`'s application over the adapters of a job.

    python -m bench.serve_rung JOB.json PORT

The job says `base` (a spec), `adapters` (name -> folder), `serve` (names; `base` is the bare one),
`lanes`, `quantize` (none unless said), and `copies`: so many LoRA adapters beside them, random ones
that no file holds.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from bench.serve_items import COPIED, adapter_of
from rung import methods
from rung.methods import artefact
from rung.models import load
from rung.server.app import create_app
from rung.server.serve import bind, run

NEVER = -1  # no token has this id: every answer is as long as was asked for


def serve(job: dict[str, Any], port: int) -> None:
    loaded = load([], base=job["base"], quantize=job.get("quantize"), max_batch=job["lanes"])
    engine = loaded.engine
    bare = dataclasses.replace(next(iter(engine.models.values())), name="base", stop_ids=(NEVER,))
    for name in job["serve"]:
        model = dataclasses.replace(bare, name=name)
        adapter = None
        if name in job["adapters"]:
            adapter, _ = artefact.load(Path(job["adapters"][name]), engine.bank)
        engine.load(model, adapter)
    if job.get("copies"):
        _copy(engine, bare, job["copies"])
    run(create_app(engine), bind("127.0.0.1", port))


def _copy(engine: Any, bare: Any, count: int) -> None:
    """Adapters that differ, and what each takes of memory."""
    method = methods.get("lora")
    config = method.Config(**COPIED)
    process = psutil.Process()
    before, began = process.memory_info().rss, time.perf_counter()
    for i in range(count):
        adapter = adapter_of(engine.bank, method, config, i)
        engine.load(dataclasses.replace(bare, name=f"copy{i}"), adapter)
    grown, took = process.memory_info().rss - before, time.perf_counter() - began
    size = adapter.size * 4
    print(json.dumps({"adapter_bytes": size, "resident_bytes": grown / count, "seconds": took / count}))
    sys.stdout.flush()


if __name__ == "__main__":
    serve(json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]))
