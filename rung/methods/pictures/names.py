"""Training by the names of labels: a text tower's vectors of sentences with them are the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rung.forward.adapter import Adapter
from rung.forward.picture_bank import PictureBank
from rung.forward.picture_classifier import Nearest, readable
from rung.methods.pictures.loop import Loop
from rung.methods.pictures.training import EncoderLoop
from rung.pictures.encoder import PictureEncoder, TextTokens


def shortened(encoder: PictureEncoder, tokens: TextTokens) -> TextTokens:
    """Tokens without the padding that a causal text tower does not look at."""
    if encoder.reads_padding:
        return tokens
    longest = int(tokens.mask.sum(1).max())
    return TextTokens(tokens.ids[:, :longest], tokens.mask[:, :longest])


@dataclass(kw_only=True)
class NamesLoop(EncoderLoop):
    """Low-rank weights in both towers; a label's logit is its sentence's cosine, times CLIP's scale.

    Attributes:
        tokens: of a sentence for each label.
    """

    tokens: TextTokens

    @classmethod
    def of(cls, labels: Sequence[str], sentence: str, shared: dict[str, Any]) -> NamesLoop:
        """A loop over labels in a sentence. `shared`: what every `EncoderLoop` has."""
        bank: PictureBank = shared["inputs"].bank
        texts = [sentence.replace("{}", readable(label)) for label in labels]
        tokens = shortened(bank.encoder, bank.encoder.tokenized(texts))
        loop = cls(**shared, tokens=tokens)
        loop.adapter.classifier = Nearest(labels, {
            "vectors": torch.zeros(len(labels), bank.width, device=bank.device),
            "sharpness": torch.tensor([bank.encoder.scale], device=bank.device),
        })  # fmt: skip
        return loop

    @property
    def trained(self) -> dict[str, Tensor]:
        return {n: t for n, t in self.adapter.parameters().items() if n.startswith("linear.")}

    def logits(self, rows: Tensor, step: int | None = None) -> Tensor:
        bank = self.inputs.bank
        with bank.acting(self.adapter):
            seen = F.normalize(self.inputs.vectors(rows, step), dim=1)
            return bank.encoder.scale * seen @ self._named().T

    def _named(self) -> Tensor:
        return F.normalize(self.inputs.bank.encoder.of_tokens(self.tokens).float(), dim=1)

    def finished(self) -> Adapter:
        assert isinstance(self.adapter.classifier, Nearest)
        with torch.no_grad(), self.inputs.bank.acting(self.adapter):
            self.adapter.classifier.vectors = self._named()
        return super().finished()


@dataclass(kw_only=True)
class ContextLoop(Loop):
    """Learnt context in front of labels' names, on the frozen vectors of pictures.

    Attributes:
        encoder: the frozen one. vectors: (rows, d) of pictures, each of length 1.
        tokens: of each label's name, with room for the context.
        context: (m, e), in place of the embeddings of `m` tokens. front: tokens in front of it.
    """

    encoder: PictureEncoder
    labels: tuple[str, ...]
    vectors: Tensor
    tokens: TextTokens
    context: Tensor
    front: int

    @property
    def trained(self) -> dict[str, Tensor]:
        return {"context": self.context}

    def optimiser(self) -> torch.optim.Optimizer:
        """Plain gradient descent with momentum, as CoOp's authors train: a step of AdamW would be as
        large as an embedding."""
        knobs = self.study.training
        groups = [{"params": [self.context], "rate": 1.0}]
        return torch.optim.SGD(
            groups, lr=knobs.lr, momentum=knobs.beta1, weight_decay=knobs.weight_decay
        )

    def logits(self, rows: Tensor, step: int | None = None) -> Tensor:
        return self.encoder.scale * self.vectors[rows] @ self.named().T

    def named(self) -> Tensor:
        """Labels' vectors (L, d), each of length 1."""
        embeddings = self.encoder.model.text_model.embeddings.token_embedding
        handle = embeddings.register_forward_hook(self._put)
        try:
            return F.normalize(self.encoder.of_tokens(self.tokens).float(), dim=1)
        finally:
            handle.remove()

    def _put(self, module: Any, args: Any, out: Tensor) -> Tensor:
        own = self.context.to(out.dtype).expand(len(out), -1, -1)
        return torch.cat([out[:, : self.front], own, out[:, self.front + len(self.context) :]], 1)

    def finished(self) -> Adapter:
        with torch.no_grad():
            vectors = self.named()
        sharpness = torch.tensor([self.encoder.scale], device=vectors.device)
        tensors = {"vectors": vectors, "sharpness": sharpness, "context": self.context.detach()}
        return Adapter(classifier=Prompted(self.labels, tensors))


class Prompted(Nearest):
    """Labels by their names behind a learnt context, whose vectors are kept beside it.

    Args:
        tensors: those of `Nearest`, and context (m, e).
    """

    def __init__(self, labels: Sequence[str], tensors: dict[str, Tensor]):
        super().__init__(labels, tensors)
        self.context = tensors["context"]

    def parameters(self) -> dict[str, Tensor]:
        return {**super().parameters(), "context": self.context}


def begun(
    encoder: PictureEncoder, labels: Sequence[str], context: Sequence[int]
) -> tuple[TextTokens, int]:
    """Labels as `[start] context name. [end]`, and how many tokens stand in front of the context.

    Args:
        context: ids that hold the context's place.
    """
    plain = encoder.tokenized([f"{readable(label)}." for label in labels], room=len(context))
    start = encoder.tokenizer.bos_token_id
    front = 1 if start is not None and bool((plain.ids[:, 0] == start).all()) else 0
    own = torch.tensor([list(context)] * len(labels), device=plain.ids.device)
    whole = [
        torch.cat([t[:, :front], put, t[:, front:]], 1)
        for t, put in ((plain.ids, own), (plain.mask, torch.ones_like(own)))
    ]
    return shortened(encoder, TextTokens(*whole)), front
