"""Few-shot on pictures: a prototype of each label, the mean vector of a few of its pictures.

Prototypes as in arXiv 1703.05175, on a frozen encoder and by cosine. How many pictures of each label,
and how sharp the softmax is, are chosen on validation. Where the encoder has a text tower, prototypes
are also tried half and half with the names' vectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rung.methods.pictures.base import Rows, accuracy, bank_of
from rung.methods.pictures.zero_shot import TEMPLATES, PictureNames

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.bank import Bank
    from rung.forward.picture_classifier import Nearest
    from rung.methods import base

SHARPNESS = (1.0, 3.0, 10.0, 30.0, 100.0)  # what cosines are multiplied by


class PicturePrototypes(PictureNames):
    """The variant of `few_shot` for pictures."""

    summary = "the mean of a few pictures of each label"
    paper = "arXiv 1703.05175"

    def misfit(self, bank: Bank, config: Any) -> str | None:
        if config.pick not in ("auto", "balanced"):
            return f"--pick {config.pick} is of text: pictures are picked balanced over the labels"
        return None

    def reads(self, config: Any, train: int, validation: int) -> tuple[int, int]:
        return train, validation

    def find(self, study: base.Study, config: Any, train: Rows, validation: Rows) -> base.Fitted:
        from rung.forward.adapter import Adapter
        from rung.methods.base import Fitted

        bank = bank_of(study)
        rows = validation if validation.labels else train
        both = bank.features([*train.pictures, *rows.pictures], keep=True, stopping=study.stopping)
        known, asked = both[: len(train.labels)], both[len(train.labels) :]
        labels = tuple(sorted(set(train.labels)))
        found: dict[str, Nearest] = {}
        for shots in sorted(set(config.shots)):
            means = _prototypes(known, train.labels, labels, shots)
            found[f"{shots} of each"] = _sharpest(labels, means, asked, rows.labels)
            if bank.encoder.speaks:
                from rung.forward.picture_classifier import label_vectors

                named = label_vectors(bank.encoder, labels, TEMPLATES["sentence"])
                found[f"{shots} of each and names"] = _sharpest(
                    labels, means + named, asked, rows.labels
                )
        scores = {n: accuracy(c.logits(asked), rows.labels, labels) for n, c in found.items()}
        best = max(scores, key=lambda name: scores[name])  # the first, and fewest, among equals
        study.note(f"chose {best}: accuracy {scores[best]:.3f} on {len(rows.labels)} rows")
        metrics: dict[str, Any] = {"choice": best}
        metrics |= {f"choice_accuracy of {name}": value for name, value in scores.items()}
        return Fitted(Adapter(classifier=found[best]), metrics)


def _prototypes(vectors: Tensor, given: list[str], labels: tuple[str, ...], shots: int) -> Tensor:
    """(L, d): of each label the mean of its first `shots` vectors, each of length 1."""
    import torch
    import torch.nn.functional as F

    unit = F.normalize(vectors, dim=1)
    means = []
    for label in labels:
        rows = [i for i, other in enumerate(given) if other == label][:shots]
        means.append(F.normalize(unit[rows].mean(0), dim=0))
    return torch.stack(means)


def _sharpest(labels: tuple[str, ...], vectors: Tensor, asked: Tensor, given: list[str]) -> Nearest:
    """The classifier at the sharpness with the lowest loss on some rows."""
    import torch
    import torch.nn.functional as F

    from rung.forward.picture_classifier import Nearest

    place = {label: i for i, label in enumerate(labels)}
    known = [i for i, label in enumerate(given) if label in place]
    true = torch.tensor([place[given[i]] for i in known])
    unit = F.normalize(vectors, dim=1)
    made = [Nearest(labels, {"vectors": unit, "sharpness": torch.tensor([s])}) for s in SHARPNESS]
    if not known:
        return made[len(made) // 2]
    losses = [float(F.cross_entropy(c.logits(asked[known]), true)) for c in made]
    return made[losses.index(min(losses))]
