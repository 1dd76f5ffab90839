"""The sides of `bench.vision`, each in a process of its own: `python -m bench.vision_sides SIDE JOB`.

The last line of the output is JSON: seconds, accuracy on the held-out rows with its interval, and of
the probe scikit-learn's accuracy on the same vectors.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH = 32  # pictures of a step, both sides
HELD = 0.3  # share of the photographs that are judged by
RATES = {"trainer": 5e-4, "trainer_last": 1e-3, "last_layers": 3e-4}


def rows(job: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Training rows and held-out rows, the same for every side."""
    from rung.data import DataKnobs, load, split

    knobs = DataKnobs(data=job["photos"], test=HELD, validation=0.1)
    parts = dict(split(load(knobs), knobs))
    return list(parts["train"]), list(parts["test"])


def judged(right: list[bool]) -> dict[str, Any]:
    """Accuracy with the interval that Rung shows."""
    from rung.evals.intervals import wilson

    low, high = wilson(sum(right), len(right))
    return {"accuracy": sum(right) / len(right), "low": low, "high": high, "n": len(right)}


def rung_side(method: str, job: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """A tuning by Rung, from reading the pictures to the model that is kept."""
    import sklearn.linear_model  # noqa: F401 - imports count for no side
    import torch._dynamo  # noqa: F401 - of optimisers

    import rung
    import rung.train.job
    from rung import bases
    from rung.forward.picture_bank import PictureBank
    from rung.pictures.encoder import load

    load(bases.resolve(job["base"]))  # checked and in the disk's cache, as the peer has it
    began = time.perf_counter()
    made = rung.tune(
        "bench", job["photos"], base=job["base"], method=method, test=HELD, validation=0.1,
        dtype="float32", device="cpu", **settings,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    _, held = rows(job)
    bank = made.prepared.bank
    assert isinstance(bank, PictureBank)
    classifier, slot = made.adapter.classifier, bank.add(made.adapter)
    vectors = bank.features([e.messages[0]["pictures"][0] for e in held], slot)
    said = [classifier.labels[i] for i in classifier.logits(vectors).argmax(1).tolist()]
    found = {"seconds": seconds, **judged([a == e.label for a, e in zip(said, held, strict=True)])}
    if method == "linear_probe":
        found["sklearn"] = by_sklearn(bank, *rows(job))
    return found


def by_sklearn(bank: Any, train: list[Any], held: list[Any]) -> float:
    """scikit-learn's accuracy: standardised vectors, its C chosen by its own cross-validation."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def vectors(part: list[Any]) -> Any:
        return bank.features([e.messages[0]["pictures"][0] for e in part]).numpy()

    model = make_pipeline(
        StandardScaler(), LogisticRegressionCV(Cs=[1e-3, 5e-3, 2e-2, 0.1], cv=3, max_iter=300)
    )
    model.fit(vectors(train), [e.label for e in train])
    return float(model.score(vectors(held), [e.label for e in held]))


def trainer_side(side: str, job: dict[str, Any]) -> dict[str, Any]:
    """Fine-tuning by transformers' Trainer, at its defaults but for epochs, batch and rate."""
    import torch._dynamo
    from torch import nn
    from transformers import Trainer, TrainingArguments

    from rung import bases
    from rung.pictures.encoder import load

    train, held = rows(job)
    labels = sorted({e.label for e in train})
    encoder = load(bases.resolve(job["base"]))
    network = encoder.model.to(memory_format=torch.contiguous_format)
    network._fc = nn.Linear(encoder.width, len(labels))

    def dataset(part: list[Any]) -> list[dict[str, Any]]:
        pixels = encoder.pixels([e.messages[0]["pictures"][0] for e in part])
        codes = [labels.index(e.label) for e in part]
        return [{"pixels": p, "labels": c} for p, c in zip(pixels, codes, strict=True)]

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: Any, labels: Any = None) -> dict[str, Any]:
            logits = self.network(pixels)
            loss = nn.functional.cross_entropy(logits, labels)
            return {"loss": loss, "logits": logits}

    model, given, asked = Classifier(), dataset(train), dataset(held)
    network.requires_grad_(side == "trainer")
    for part in (*network._blocks[-job["layers"] :], network._conv_head, network._bn1, network._fc):
        part.requires_grad_(True)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder, num_train_epochs=job["epochs"], per_device_train_batch_size=BATCH,
            learning_rate=RATES[side], save_strategy="no", report_to=[], disable_tqdm=True,
            use_cpu=True, remove_unused_columns=False,
        )  # fmt: skip
        trainer = Trainer(model=model, args=settings, train_dataset=given)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
        logits = trainer.predict(asked).predictions
    said = logits.argmax(-1).tolist()
    right = [labels[code] == e.label for code, e in zip(said, held, strict=True)]
    return {"seconds": seconds, **judged(right)}


def main() -> None:
    side, job = sys.argv[1], json.loads(sys.argv[2])
    if side == "probe":
        found = rung_side("linear_probe", job)
    elif side == "last_layers":
        # Every epoch is run, as the peer runs it.
        found = rung_side(
            "last_layers", job, epochs=job["epochs"], batch_size=BATCH, layers=job["layers"],
            patience=0, lr=RATES[side],
        )  # fmt: skip
    else:
        found = trainer_side(side, job)
    print(json.dumps(found))


if __name__ == "__main__":
    assert Path("bench").is_dir(), "run from the repository's root"
    main()
