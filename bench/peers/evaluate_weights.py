"""The one ruler for both sides of bench/features.py: trained weights put into the base, and scored.

Usage: evaluate_weights.py JOB RESULT FOLDER... The result is that of evaluate.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import job as jobs
from evaluate import mean_loss
from safetensors.torch import load_file


def main() -> None:
    job = jobs.read()
    used = sorted({i for batch in job["batches"] for i in batch})
    examples = [job["examples"][i] for i in used]
    losses = {}
    for folder in sys.argv[3:]:
        model = jobs.load_base(job).eval()
        weights = load_file(Path(folder) / "weights.safetensors")
        unknown = model.load_state_dict(weights, strict=False).unexpected_keys
        if unknown:
            raise SystemExit(f"{folder} holds weights that the base does not have: {unknown}")
        losses[folder] = mean_loss(model, examples)
    Path(sys.argv[2]).write_text(json.dumps(losses))


if __name__ == "__main__":
    main()
