"""What a linear probe reads: rows as a classifier is asked them, and their features, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rung.data.problem import counted
from rung.errors import DataError
from rung.evals.tasks import reply
from rung.methods import base
from rung.types import Example, Message, Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.features import Frame
    from rung.methods.linear_probe.classifier import Reading
    from rung.methods.linear_probe.fitting import Chosen

POOLINGS = ("last", "mean", "own")
SPREAD = 10  # layers that are tried before those around the best
CHOOSE_ROWS = 2000  # training rows to choose by, and as many of validation
ROOM = 1 << 30  # bytes of features at once


@dataclass(frozen=True)
class Rows:
    """Rows as a classifier is asked them, and their labels."""

    asked: list[Prompt]
    labels: list[str]

    @classmethod
    def of(cls, study: base.Study, examples: Sequence[Example]) -> Rows:
        """Those that can be rendered and fit into the context; a note counts the others.

        In the order of their digests, so that the first of them are a fair part of all, however the
        source is sorted, and the same part for every seed.
        """
        context = study.bank.context
        asked, labels, left = [], [], 0
        for example in sorted(examples, key=lambda e: e.digest):
            messages, label = _prompt(example), reply(example)
            try:
                ids = tuple(study.template.prompt(messages))
            except DataError:
                ids = ()
            if label is None or not 0 < len(ids) <= context:
                left += 1
                continue
            asked.append(Prompt(ids, tuple(messages)))
            labels.append(label)
        if left:
            study.note(
                f"{counted(left, 'row is', 'rows are')} left out: no label, or too long for the context"
            )
        return cls(asked, labels)


def _prompt(example: Example) -> Sequence[Message]:
    """The conversation before the label."""
    if example.messages:
        return example.asked
    return [{"role": "user", "content": example.text or ""}]


@dataclass
class StateFeatures:
    """Features of the base. The rows to choose by are read at many layers, the others at the best."""

    study: base.Study
    train: Rows
    validation: Rows
    config: Any
    frame: Frame
    read: dict[str, Tensor] = field(default_factory=dict)  # LAYER.POOLING -> (rows to choose by, d)

    def __post_init__(self) -> None:
        from rung.forward.features import pooled

        prompts = [a.ids for a in (*self.train.asked[:CHOOSE_ROWS], *self._held)]
        depth = self.study.bank.layers.count
        width = self.study.bank.width
        most = max(2, ROOM // (len(prompts) * width * len(POOLINGS) * 4))
        chosen = [self.config.layer] if self.config.layer is not None else spread(depth, most)
        self.layers = chosen
        self.read = pooled(
            self.study.bank, prompts, chosen, self.frame, keep=True, stopping=self.study.stopping
        )

    @property
    def _held(self) -> list[Prompt]:
        return self.validation.asked[:CHOOSE_ROWS]

    @property
    def rows(self) -> tuple[int, int]:
        """How many rows of training, and of validation, there are to choose by."""
        return min(len(self.train.asked), CHOOSE_ROWS), len(self._held)

    def rounds(self, best: str | None) -> list[str]:
        """What to try: a spread of layers first, then the layers around the best."""
        poolings = POOLINGS if self.config.pooling == "auto" else (self.config.pooling,)
        if best is None:
            few = [self.layers[i] for i in spread(len(self.layers) - 1, SPREAD)]
            return [f"{layer}.{p}" for layer in few for p in poolings]
        layer, _, pooling = best.partition(".")
        at, step = self.layers.index(int(layer)), max(1, len(self.layers) // SPREAD)
        near = self.layers[max(0, at - step + 1) : at + step]
        return [f"{n}.{pooling}" for n in near if n != int(layer)]

    def of(self, name: str) -> Tensor:
        """The rows to choose by, training first: (N, d)."""
        return self.read[name]

    def all(self, name: str) -> Tensor:
        """Every training row: (N, d)."""
        from rung.forward.features import pooled

        known = self.read[name][: self.rows[0]]
        rest = [a.ids for a in self.train.asked[CHOOSE_ROWS:]]
        if not rest:
            return known
        import torch

        layer, bank = int(name.partition(".")[0]), self.study.bank
        more = pooled(bank, rest, [layer], self.frame, keep=True, stopping=self.study.stopping)
        return torch.cat([known, more[name]])

    def reading(self, name: str) -> Reading:
        from rung.methods.linear_probe.classifier import StateReading

        layer, _, pooling = name.partition(".")
        return StateReading(int(layer), pooling, self.frame)

    def final(self, chosen: Chosen, labels: list[str], kind: str):
        from rung.methods.linear_probe.fitting import final

        return final(self.all(chosen.name), labels, kind, chosen)


@dataclass
class EncoderFeatures:
    """Vectors of a sentence encoder."""

    study: base.Study
    train: Rows
    validation: Rows
    config: Any

    def __post_init__(self) -> None:
        from rung.bases import encoder
        from rung.methods.linear_probe.classifier import encoded

        assert self.config.encoder
        self.encoder = encoder.load(self.config.encoder)
        texts = [a.question for a in (*self.train.asked, *self.validation.asked)]
        self.vectors = encoded(self.encoder, texts, self.study.stopping)

    @property
    def rows(self) -> tuple[int, int]:
        return len(self.train.asked), len(self.validation.asked)

    def rounds(self, best: str | None) -> list[str]:
        return ["encoder"] if best is None else []

    def of(self, name: str) -> Tensor:
        return self.vectors

    def reading(self, name: str) -> Reading:
        from rung.methods.linear_probe.classifier import EncoderReading

        return EncoderReading(self.encoder)

    def final(self, chosen: Chosen, labels: list[str], kind: str):
        from rung.methods.linear_probe.fitting import final

        return final(self.vectors[: len(labels)], labels, kind, chosen)


def features(study: base.Study, train: Rows, validation: Rows, config: Any) -> Any:
    from rung.forward.features import Frame

    if config.encoder:
        return EncoderFeatures(study, train, validation, config)
    return StateFeatures(study, train, validation, config, Frame.of([a.ids for a in train.asked]))


def spread(last: int, most: int) -> list[int]:
    """At most `most` whole numbers from 0 to `last`, evenly, both ends among them."""
    count = min(most, last + 1)
    return sorted({round(i * last / max(count - 1, 1)) for i in range(count)})
