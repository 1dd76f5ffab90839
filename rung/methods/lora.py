"""LoRA: low-rank weights beside the projections (Hu et al., arXiv 2106.09685).

Departs from the paper in its defaults: all projections are adapted, not only those of queries and
values, and the scale is `alpha / rank`, or `alpha / sqrt(rank)` with `--rslora` (arXiv 2312.03732).

    rung tune NAME --method lora --rank 16 --data ...
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.methods import base, layers

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.types import Task

MOST_RANK = 1024


@dataclass
class Knobs:
    group: ClassVar[str] = "lora"
    rank: int = knob(
        16, "Rank of the added weights.", least=1, most=MOST_RANK, foreign=("r", "lora_r", "lora_rank")
    )
    alpha: float | None = knob(
        None, "Scale of the added weights; twice the rank by default.", above=0, foreign=("lora_alpha",)
    )
    rslora: bool = knob(
        False,
        "Divide alpha by the square root of the rank instead of the rank.",
        foreign=("use_rslora",),
    )
    targets: list[str] = knob(
        ["all-linear"],
        "Projections to adapt: all-linear, attention, mlp, or names such as q_proj.",
        foreign=("target_modules", "lora_target_modules", "lora_target"),
    )

    @property
    def scale(self) -> float:
        alpha = 2.0 * self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


class Method(base.Method):
    summary = "low-rank weights beside the projections"
    paper = "arXiv 2106.09685"
    peft_type = "LORA"
    Config = Knobs
    defaults = {"lr": 1e-3, "epochs": 3.0}
    search = {"lr": (0.001, 0.0005, 0.002)}

    def rungs(self, task: Task) -> list[dict[str, Any]]:
        return [{}, {"quantize": "int8"}]

    def build(self, bank: Bank, config: Knobs, start: base.Start) -> Adapter:
        import torch

        from rung.forward.adapter import Adapter
        from rung.forward.lora import LoraOp

        ops = {}
        for name, (_, d_in, d_out) in layers.chosen(bank, config.targets).items():
            bound = 1 / math.sqrt(d_in)  # what kaiming_uniform with a = sqrt(5) comes to
            a = torch.empty(config.rank, d_in).uniform_(-bound, bound, generator=start.generator)
            ops[name] = LoraOp(a, torch.zeros(d_out, config.rank), config.scale)
        return Adapter(linear=ops).to(bank.device)

    def to_files(self, adapter: Adapter, bank: Bank, config: Knobs):
        alpha = 2.0 * config.rank if config.alpha is None else config.alpha
        modules = layers.projections(bank)
        settings = {
            "r": config.rank,
            "lora_alpha": alpha,
            "use_rslora": config.rslora,
            "target_modules": sorted(adapter.linear),
            "fan_in_fan_out": any(layers.transposed(modules[n][0]) for n in adapter.linear),
            "lora_dropout": 0.0,
            "bias": "none",
        }
        tensors = {}
        for name, op in adapter.linear.items():
            for part, value in op.parameters().items():
                tensors[f"{layers.PEFT_PREFIX}{name}.{part}.weight"] = value
        return settings, tensors
