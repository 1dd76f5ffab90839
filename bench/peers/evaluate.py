"""The one ruler for both sides: PEFT loads an adapter, a plain forward without padding scores it.

Usage: evaluate.py JOB RESULT ADAPTER... The result maps each folder to the mean loss, in nats per
supervised token, over all the examples of the job.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import job as jobs
import torch
from peft import PeftModel


@torch.no_grad()
def mean_loss(model: Any, examples: list[dict[str, Any]]) -> float:
    """One example at a time: no padding, no mask, nothing that could go wrong."""
    total, count = 0.0, 0
    for example in examples:
        ids = torch.tensor([example["ids"]])
        supervised = torch.tensor(example["supervised"], dtype=torch.bool)[1:]
        logits = model(input_ids=ids).logits[0]
        # Prompt tuning may put its virtual tokens in front of the logits.
        logits = logits[-ids.shape[1] :][:-1]
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        total += float(losses[supervised].sum())
        count += int(supervised.sum())
    return total / count


def main() -> None:
    job = jobs.read()
    used = sorted({i for batch in job["batches"] for i in batch})
    examples = [job["examples"][i] for i in used]
    losses = {}
    for folder in sys.argv[3:]:
        model = PeftModel.from_pretrained(jobs.load_base(job), folder).eval()
        losses[folder] = mean_loss(model, examples)
    Path(sys.argv[2]).write_text(json.dumps(losses))


if __name__ == "__main__":
    main()
