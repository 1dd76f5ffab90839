"""A linear probe on pictures: a linear classifier on the vectors of a frozen vision encoder.

How strongly weights are held back is chosen as for text, by predictions on rows that were not fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rung.methods.pictures.base import PictureMethod, Rows, accuracy, bank_of
from rung.methods.workload import Shape, Workload, classifier_fit

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.methods import base

FITS = 16  # folds, and the final one, at every strength


@dataclass
class Vectors:
    """The one set of features that there is to choose from, see `linear_probe.fitting.Features`."""

    count: int
    held: int
    vectors: Tensor

    @property
    def rows(self) -> tuple[int, int]:
        return self.count, self.held

    def rounds(self, best: str | None) -> list[str]:
        return ["pooled"] if best is None else []

    def of(self, name: str) -> Tensor:
        return self.vectors


class PictureProbe(PictureMethod):
    """The variant of `linear_probe` for pictures."""

    summary = "a linear classifier on the encoder's vectors"
    paper = "arXiv 1610.01644"

    def misfit(self, bank: Bank, config: Any) -> str | None:
        if config.encoder or config.layer is not None or config.pooling != "auto":
            return "--encoder, --layer and --pooling are of text: leave them out for pictures"
        return None

    def rungs(self, task: Any) -> list[dict[str, Any]]:
        return [{}]

    def making(self, config: Any, shape: Shape, schedule: base.Schedule) -> Workload:
        fits = classifier_fit(shape.rows, shape.width, shape.labels, FITS)
        return super().making(config, shape, schedule) + fits

    def find(self, study: base.Study, config: Any, train: Rows, validation: Rows) -> base.Fitted:
        from rung.forward.adapter import Adapter
        from rung.forward.picture_classifier import Linear
        from rung.methods.base import Fitted
        from rung.methods.linear_probe.fitting import choose, final

        count, held = len(train.labels), len(validation.labels)
        vectors = bank_of(study).features(
            [*train.pictures, *validation.pictures], keep=True, stopping=study.stopping
        )
        chosen = choose(
            Vectors(count, held, vectors), train.labels, validation.labels, config.classifier,
            config.c, study.stopping,
        )  # fmt: skip
        labels, tensors = final(vectors[:count], train.labels, config.classifier, chosen)
        study.note(f"chose {chosen.told}")
        classifier = Linear(labels, tensors)
        metrics: dict[str, Any] = {
            "choice": chosen.name, "c": chosen.c, "held_out_rows": chosen.n,
            "held_out_accuracy": chosen.accuracy,
        }  # fmt: skip
        if held:
            right = accuracy(classifier.logits(vectors[count:]), validation.labels, labels)
            metrics |= {"validation_accuracy": right, "validation_rows": held}
        return Fitted(Adapter(classifier=classifier), metrics)

    def to_files(self, adapter: Adapter, bank: Bank, config: Any):
        from rung.methods.pictures.files import written

        assert adapter.classifier is not None
        return written(adapter.classifier.labels, bank), adapter.classifier.parameters()

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.methods.pictures.files import read_labels, read_linear

        labels = read_labels(settings, bank)
        return Adapter(classifier=read_linear(labels, tensors, bank.width))
