"""Full tuning: every weight of the base, as a copy of its own.

rung tune NAME --method full --data ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rung.methods import base, layers
from rung.methods.augment import augment_knob
from rung.methods.workload import Shape
from rung.types import Modality

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank


@dataclass
class Knobs:
    group: ClassVar[str] = "full"
    augment: list[str] = augment_knob()


class Method(base.Method):
    summary = "every weight of the base"
    Config = Knobs
    own_weights = True
    defaults = {"lr": 2e-5, "epochs": 2.0}
    search = {"lr": (2e-05, 1e-05, 4e-05)}

    def on(self, reads: Modality) -> base.Method:
        if reads == self.modality:
            return self
        from rung.methods.pictures.blocks import PictureFull

        return PictureFull(self.name, self.Config)

    def size(self, bank: Bank, config: Any, shape: Shape) -> int:
        return sum(p.numel() for p in bank.model.parameters())

    def build(self, bank: Bank, config: Any, start: base.Start) -> Adapter:
        return copied(bank, [n for n, _ in bank.model.named_parameters()])

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank):
        return layers.from_copies(tensors, bank)


def copied(bank: Bank, names: list[str]) -> Adapter:
    """An adapter with float32 copies of the named parameters, those that a text reads.

    They lie in memory in the plain order: an engine may have stored the base's transposed.
    """
    import torch

    from rung.forward.adapter import Adapter
    from rung.forward.backbone import whole

    own = dict(bank.model.named_parameters())
    unread = bank.unread(names)  # by a text; its copy would learn nothing
    names = [n for n in names if n not in unread]
    copies = {n: whole(own[n].detach()).to(torch.float32, copy=True) for n in names}
    return Adapter(weights={n: tensor.contiguous() for n, tensor in copies.items()})
