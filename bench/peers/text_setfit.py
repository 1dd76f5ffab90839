"""SetFit on a sentence encoder, with as many steps as fit the time.

Usage: text_setfit.py JOB RESULT. The default epoch over 2,000 rows would have 125,125 steps of 16
pairs: a few steps are timed first, and the limit follows from what they took. Making the pairs and the
head counts too.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

BATCH = 16  # SetFit's default
TIMED = 5  # steps by which the others are predicted
SHARE = 0.6  # of the seconds, for steps; the rest is for pairs, the head and the test rows
MAX_STEPS = 20_000


def main() -> None:
    began = time.perf_counter()
    job = json.loads(Path(sys.argv[1]).read_text())
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    train = Dataset.from_dict({"text": job["train"]["texts"], "label": job["train"]["labels"]})

    def fit(steps: int) -> tuple[Any, float]:
        """(The model, seconds of its training.)"""
        model = SetFitModel.from_pretrained(job["encoder"], labels=job["labels"])
        arguments = TrainingArguments(
            output_dir=job["folder"], batch_size=BATCH, max_steps=steps, report_to="none",
            save_strategy="no", show_progress_bar=False, seed=0,
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=train)
        start = time.perf_counter()
        trainer.train()
        return model, time.perf_counter() - start

    _, few = fit(TIMED)
    left = job["seconds"] - (time.perf_counter() - began)
    # What does not grow with the steps is in `few` as well: the estimate is on the cautious side.
    steps = int(max(TIMED, min(MAX_STEPS, SHARE * left / (few / TIMED))))
    model, _ = fit(steps)
    said = [str(label) for label in model.predict(job["test"]["texts"])]
    kept = {
        "answers": said,
        "seconds": time.perf_counter() - began,
        "note": f"{steps} steps of {BATCH}",
    }
    Path(sys.argv[2]).write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
