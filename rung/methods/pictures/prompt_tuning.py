"""Prompt tuning on pictures: learnt context vectors in front of labels' names (CoOp, arXiv 2109.01134).

For encoders with a text tower, CLIP and SigLIP. The context is shared by all labels and stands in front
of each name. It begins as the embeddings of a text, so that training starts from zero-shot; pictures
are encoded once. Departs from the paper in that beginning, which is the paper's for 4 tokens alone, and
in keeping the context that is best on validation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rung.errors import MethodMisfit
from rung.methods.pictures.base import PictureMethod, Rows, bank_of
from rung.methods.workload import Shape, Workload

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.methods import base
    from rung.pictures.encoder import PictureEncoder

SENTENCE = "a photo of a"
SPARE = 4  # tokens of a text that a name and its marks take at least
EPOCHS_TRIED = 30.0  # of a training, before it ends for want of a better loss
TEXT_SHARE = 1.0  # what a name takes through the text tower, in pictures through the vision tower
BACKWARD = 1.2  # what a backward pass takes, in forward passes


class PicturePrompt(PictureMethod):
    """The variant of `prompt_tuning` for pictures."""

    summary = "learnt context in front of the labels' names"
    paper = "arXiv 2109.01134"
    defaults = {
        "virtual_tokens": 4, "lr": 2e-3, "epochs": 50.0, "batch_size": 32, "weight_decay": 5e-4,
        "warmup": 0.02,
    }  # fmt: skip

    def misfit(self, bank: Bank, config: Any) -> str | None:
        encoder: PictureEncoder = bank.encoder  # type: ignore[attr-defined]
        if not encoder.speaks:
            return "it has no text tower, so labels mean nothing to it: use CLIP or SigLIP"
        most = encoder.longest_text - SPARE
        if config.virtual_tokens > most:
            return f"--virtual-tokens {config.virtual_tokens} leaves no room for names: at most {most}"
        return None

    def find(self, study: base.Study, config: Any, train: Rows, validation: Rows) -> base.Fitted:
        import torch
        import torch.nn.functional as F

        from rung.methods.pictures.loop import codes_of
        from rung.methods.pictures.names import ContextLoop, begun

        bank = bank_of(study)
        pictures = [*train.pictures, *validation.pictures]
        vectors = bank.features(pictures, keep=True, stopping=study.stopping).to(bank.device)
        labels = tuple(sorted(set(train.labels)))
        generator = torch.Generator().manual_seed(study.seed)
        ids, context = _first(bank.encoder, config, generator)
        tokens, front = begun(bank.encoder, labels, ids)
        loop = ContextLoop(
            study=study, codes=codes_of(labels, [*train.labels, *validation.labels]).to(bank.device),
            count=len(train.labels), size=len(vectors), encoder=bank.encoder, labels=labels,
            vectors=F.normalize(vectors, dim=1), tokens=tokens, context=context.to(bank.device),
            front=front,
        )  # fmt: skip
        return loop.fitted(validation)

    def size(self, bank: Bank, config: Any, shape: Shape) -> int:
        width: int = bank.encoder.model.config.text_config.hidden_size  # type: ignore[attr-defined]
        return config.virtual_tokens * width

    def making(self, config: Any, shape: Shape, schedule: base.Schedule) -> Workload:
        once = super().making(config, shape, schedule)
        steps = EPOCHS_TRIED * shape.rows / max(schedule.batch, 1)
        return once + Workload(
            read=TEXT_SHARE * shape.labels * steps * (1 + BACKWARD), passes=steps * (1 + BACKWARD)
        )

    def to_files(self, adapter: Adapter, bank: Bank, config: Any):
        from rung.methods.pictures.files import written

        assert adapter.classifier is not None
        return written(adapter.classifier.labels, bank), adapter.classifier.parameters()

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.methods import layers
        from rung.methods.pictures.files import read_labels, read_nearest
        from rung.methods.pictures.names import Prompted

        labels = read_labels(settings, bank)
        nearest = read_nearest(labels, tensors, bank.width).parameters()
        context = layers.tensor(tensors, "context", (-1, -1))
        return Adapter(classifier=Prompted(labels, {**nearest, "context": context}))


def _first(encoder: PictureEncoder, config: Any, generator: Any) -> tuple[list[int], Tensor]:
    """Ids that hold the context's place (m,), and what it begins as: (m, e) float32.

    Raises:
        MethodMisfit: when there is no text to begin from.
    """
    import torch

    said = config.init_text or SENTENCE
    text: list[int] = encoder.tokenizer(said, add_special_tokens=False)["input_ids"]
    if not text:
        raise MethodMisfit("--init-text holds no words: name some, or leave it out")
    count = config.virtual_tokens
    ids = (text * (count // len(text) + 1))[:count]
    table = encoder.model.text_model.embeddings.token_embedding.weight.detach().float().cpu()
    if config.init == "random":
        return ids, torch.randn(len(ids), table.shape[1], generator=generator) * table.std()
    begun = torch.tensor(ids)
    if config.init == "vocab":
        begun = torch.randint(len(table), (len(ids),), generator=generator)
    return ids, table[begun].clone()
