"""LoRA: low-rank weights beside the projections (Hu et al., arXiv 2106.09685).

Departs from the paper in its defaults: all projections are adapted, not only those of queries and
values, and the scale is `alpha / rank`, or `alpha / sqrt(rank)` with `--rslora` (arXiv 2312.03732).

    rung tune NAME --method lora --rank 16 --data ...
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.methods import base, layers

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.types import Task

MAX_RANK = 1024


@dataclass
class Knobs:
    group: ClassVar[str] = "lora"
    rank: int = knob(
        16, "Rank of the added weights.", least=1, most=MAX_RANK, foreign=("r", "lora_r", "lora_rank")
    )
    alpha: float | None = knob(
        None, "Scale of the added weights; twice the rank by default.", above=0, foreign=("lora_alpha",)
    )
    rslora: bool = knob(
        False,
        "Divide alpha by the square root of the rank instead of the rank.",
        foreign=("use_rslora",),
    )
    dora: bool = knob(
        False,
        "Train the length of each row of a weight apart from its direction (DoRA).",
        foreign=("use_dora",),
    )
    plus: float = knob(
        1.0,
        "Times the learning rate that the outer matrix B learns with; 16 in the paper (LoRA+).",
        above=0,
        most=1000,
        foreign=("loraplus_lr_ratio",),
    )
    targets: list[str] = knob(
        ["all-linear"],
        "Projections to adapt: all-linear, attention, mlp, or names such as q_proj.",
        names=True,
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
        from rung.forward.dora import DoraOp
        from rung.forward.lora import LoraOp
        from rung.forward.op import LinearOp

        ops: dict[str, LinearOp] = {}
        for name, (module, d_in, d_out) in layers.chosen(bank, config.targets).items():
            bound = 1 / math.sqrt(d_in)  # what kaiming_uniform with a = sqrt(5) comes to
            a = torch.empty(config.rank, d_in).uniform_(-bound, bound, generator=start.generator)
            b = torch.zeros(d_out, config.rank)
            if config.dora:
                turned = layers.transposed(module)
                ops[name] = DoraOp.fresh(a, b, config.scale, module, turned)
            else:
                ops[name] = LoraOp(a, b, config.scale)
        return Adapter(linear=ops).to(bank.device)

    def rates(self, config: Knobs, names: Iterable[str]) -> dict[str, float]:
        """LoRA+ (Hayou et al., arXiv 2402.12354): B learns faster than A."""
        outer = (".lora_B", ".lora_B_bias")
        return {name: config.plus for name in names if config.plus != 1 and name.endswith(outer)}

    def untrainable(self, adapter: Adapter) -> str | None:
        from rung.forward.dora import DoraOp
        from rung.forward.lora import LoraOp

        if adapter.weights or any(type(op) not in (LoraOp, DoraOp) for op in adapter.linear.values()):
            return "it holds more than LoRA: export it --to merged and begin from that as a base"
        return None

    def to_files(self, adapter: Adapter, bank: Bank, config: Knobs):
        from rung.forward.dora import DoraOp

        alpha = 2.0 * config.rank if config.alpha is None else config.alpha
        modules = layers.projections(bank)
        ops: Any = adapter.linear
        ranks = {name: len(op.a) for name, op in ops.items()}  # a parent's may be others
        root = math.sqrt if config.rslora else float
        alphas = {name: op.scale * root(ranks[name]) for name, op in ops.items()}
        settings = {
            "r": config.rank,
            "lora_alpha": alpha,
            "rank_pattern": {name: rank for name, rank in ranks.items() if rank != config.rank},
            "alpha_pattern": {n: a for n, a in alphas.items() if not math.isclose(a, alpha)},
            "use_rslora": config.rslora,
            "use_dora": any(isinstance(op, DoraOp) for op in adapter.linear.values()),
            "target_modules": sorted(adapter.linear),
            "fan_in_fan_out": any(layers.transposed(modules[n][0]) for n in adapter.linear),
            "lora_dropout": 0.0,
            "bias": "none",
        }
        tensors = {}
        for name, op in adapter.linear.items():
            for part, value in op.parameters().items():
                part = "lora_magnitude_vector" if part == "magnitude" else f"{part}.weight"
                tensors[f"{layers.PEFT_PREFIX}{name}.{part}"] = value
        return settings, tensors
