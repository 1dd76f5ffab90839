"""Zero-shot on pictures: labels by their names, for encoders with a text tower (CLIP, SigLIP).

The template is the best on validation of the bare name, one sentence, and an ensemble of sentences. The
temperature is the encoder's own, as it was learnt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rung.methods.pictures.base import PictureMethod, Rows, accuracy, bank_of

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.methods import base

TEMPLATES = {
    "name": ("{}",),
    "sentence": ("a photo of a {}.",),
    "ensemble": (
        "a photo of a {}.", "a close-up photo of a {}.", "a bright photo of the {}.",
        "a small picture of a {}.", "a drawing of a {}.", "many {}.", "one {} on its own.",
    ),
}  # fmt: skip


class PictureNames(PictureMethod):
    """The variant of `zero_shot` for pictures."""

    summary = "labels by their names"
    paper = "arXiv 2103.00020"

    def misfit(self, bank: Bank, config: Any) -> str | None:
        if not bank.encoder.speaks:  # type: ignore[attr-defined]
            return "it has no text tower, so labels mean nothing to it: use CLIP or SigLIP"
        return None

    def find(self, study: base.Study, config: Any, train: Rows, validation: Rows) -> base.Fitted:
        from rung.forward.adapter import Adapter
        from rung.forward.picture_classifier import Nearest
        from rung.methods.base import Fitted

        bank = bank_of(study)
        labels = tuple(sorted(set(train.labels)))
        own = {f"{n}": (t,) for n, t in enumerate(config.system_prompts, 1)}
        rows = validation if validation.labels else train
        vectors = bank.features(rows.pictures, keep=True, stopping=study.stopping)
        found, scores = {}, {}
        for name, templates in (own or TEMPLATES).items():
            found[name] = Nearest.by_name(bank.encoder, labels, templates)
            scores[name] = accuracy(found[name].logits(vectors), rows.labels, labels)
        best = max(scores, key=lambda name: scores[name])
        study.note(f"chose {best}: accuracy {scores[best]:.3f} on {len(rows.labels)} rows")
        metrics: dict[str, Any] = {"choice": best}
        metrics |= {f"choice_accuracy of {name}": value for name, value in scores.items()}
        return Fitted(Adapter(classifier=found[best]), metrics)

    def reads(self, config: Any, train: int, validation: int) -> tuple[int, int]:
        return 0 if validation else train, validation

    def to_files(self, adapter: Adapter, bank: Bank, config: Any):
        from rung.methods.pictures.files import written

        assert adapter.classifier is not None
        return written(adapter.classifier.labels, bank), adapter.classifier.parameters()

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.methods.pictures.files import read_labels, read_nearest

        return Adapter(classifier=read_nearest(read_labels(settings, bank), tensors, bank.width))
