"""TRL's losses without a reference, on given log-probabilities. Usage: alone_trl.py JOB RESULT.

The job, a JSON file: chosen and rejected mean log-probabilities, beta and gamma. The result, a JSON
file: for each pair simpo's loss, and the part of orpo's that compares odds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    chosen, rejected = (torch.tensor(job[side], dtype=torch.float64) for side in ("chosen", "rejected"))
    settings = SimpleNamespace(
        alpha=0.0, beta=job["beta"], simpo_gamma=job["gamma"], label_smoothing=0.0, loss_type="simpo",
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    simpo = CPOTrainer.cpo_loss(settings, chosen, rejected)[0]
    orpo = -ORPOTrainer.odds_ratio_loss(settings, chosen, rejected)[0]
    Path(sys.argv[2]).write_text(json.dumps({"simpo": simpo.tolist(), "orpo": orpo.tolist()}))


if __name__ == "__main__":
    main()
