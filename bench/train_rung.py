"""Rung's side of bench/train.py. Usage: python -m bench.train_rung JOB RESULT.

The job, a JSON file that the peers read too:

    base            folder of the base; float32 on the CPU
    method          "lora" or "prompt_tuning"; method_settings are PEFT's names for its settings
    adapter         folder in PEFT's layout with the weights both sides start from
    out             where to write the trained adapter, in PEFT's layout, so that one ruler scores
                    both sides (bench/peers/evaluate.py)
    examples        [{"ids": [int], "supervised": [bool]}]
    batches         [[index of an example]], one list per optimiser step, in this order
    learning_rate   constant (schedule); AdamW with weight_decay, betas, eps
    max_grad_norm   gradients are clipped to it
    seed            for whatever is drawn

A step's loss is the mean over the supervised tokens of its batch. The result:

    seconds         wall time of the loop: from before the first batch is put together to after the
                    last optimiser step, without loading the base and reading the examples
    losses          one per step, before that step's update
    peak_bytes      high-water mark of the process's resident memory
    settings        {name: value} worth knowing
    versions        {package: version}
    computed_tokens optional: rows that went through the layers, if fewer or more than the examples'
                    tokens (a trie computes shared text once; virtual tokens come on top)
"""

from __future__ import annotations

import importlib.metadata
import json
import resource
import sys
from pathlib import Path
from typing import Any


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train with Rung's own loop and save the adapter.

    Returns:
        seconds, losses, settings and computed_tokens of the module's docstring.
    """
    raise NotImplementedError("to be wired to rung.train.loop")


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    result = train(job)
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    packages = ("rung", "transformers", "torch")
    result["versions"] = {name: importlib.metadata.version(name) for name in packages}
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
