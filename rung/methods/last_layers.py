"""Tuning the last layers and the final norm, as copies of their own; the rest stays shared.

rung tune NAME --method last_layers --layers 2 --data ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rung.config import knob
from rung.methods import base, full, layers
from rung.methods.augment import augment_knob
from rung.methods.workload import Shape
from rung.types import Modality

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank


@dataclass
class Knobs:
    group: ClassVar[str] = "last_layers"
    layers: int = knob(2, "How many of the last layers to tune.", least=1)
    augment: list[str] = augment_knob()


class Method(base.Method):
    summary = "the last layers and the final norm"
    Config = Knobs
    own_weights = True
    defaults = {"lr": 3e-4, "epochs": 3.0}
    search = {"lr": (0.0003, 0.00015, 0.0006)}
    formed = ("layers",)

    def on(self, reads: Modality) -> base.Method:
        if reads == self.modality:
            return self
        from rung.methods.pictures.blocks import PictureBlocks

        return PictureBlocks(self.name, self.Config)

    def misfit(self, bank: Bank, config: Knobs) -> str | None:
        there = bank.config.num_hidden_layers
        if config.layers > there:
            return f"--layers {config.layers} is more than the base's {there}"
        return None

    def trained_share(self, config: Knobs, shape: Shape) -> float:
        return min(1.0, config.layers / max(shape.layers, 1))

    def build(self, bank: Bank, config: Knobs, start: base.Start) -> Adapter:
        names = layers.decoder_layers(bank)
        tuned = tuple(n + "." for n in names[-config.layers :])
        every = tuple(n + "." for n in names)
        vectors = [  # the final norm is what is left outside layers and embeddings (which may have one)
            n
            for n, p in bank.model.named_parameters()
            if n.startswith(tuned) or (not n.startswith(every) and p.dim() == 1 and "embed" not in n)
        ]
        return full.copied(bank, vectors)

    def from_files(self, settings, tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        return layers.from_copies(tensors, bank)
