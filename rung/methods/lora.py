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
from rung.errors import ArtefactError
from rung.methods import base, layers

if TYPE_CHECKING:
    from torch import Tensor

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

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank):
        from rung.forward.adapter import Adapter
        from rung.forward.lora import LoraOp

        _refuse_variants(settings, tensors)
        modules = layers.projections(bank)
        ops = {}
        for key in tensors:
            name, _, part = key.removeprefix(layers.PEFT_PREFIX).rpartition(".lora_A.")
            if not name or part != "weight":
                continue
            if name not in modules:
                raise ArtefactError(f"the base has no projection {name}: was it made for another base?")
            _, d_in, d_out = modules[name]
            a = layers.tensor(tensors, key, (-1, d_in))
            if len(a) > MOST_RANK:
                raise ArtefactError(f"{key} has rank {len(a)}, above the limit of {MOST_RANK}")
            b = layers.tensor(tensors, key.replace(".lora_A.", ".lora_B."), (d_out, len(a)))
            ops[name] = LoraOp(a, b, _scale(settings, name, len(a)))
        if not ops:
            raise ArtefactError("the adapter file holds no lora_A tensors")
        return Adapter(linear=ops).to(bank.device)

    def merged(self, adapter: Adapter, bank: Bank) -> dict[str, Tensor]:
        from rung.forward.lora import LoraOp

        modules = layers.projections(bank)
        result = {}
        for name, op in adapter.linear.items():
            assert isinstance(op, LoraOp)
            module = modules[name][0]
            delta = op.scale * (op.b.detach() @ op.a.detach())
            own = bank.model.get_parameter(f"{name}.weight").detach()
            delta = delta.t() if layers.transposed(module) else delta
            result[f"{name}.weight"] = (own.float() + delta).to(own.dtype)
        return result


def _scale(settings: dict[str, Any], name: str, rank: int) -> float:
    patterns = settings.get("alpha_pattern") or {}
    fallback = settings.get("lora_alpha", rank)
    alpha = next((v for k, v in patterns.items() if name == k or name.endswith("." + k)), fallback)
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _refuse_variants(settings: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Say so where PEFT wrote a variant whose answer would differ if it were read as plain LoRA."""
    unread = [k for k in tensors if ".lora_A." not in k and ".lora_B." not in k]
    halves = [k.replace(".lora_B.", ".lora_A.") for k in tensors if ".lora_B." in k]
    if alone := [k for k in halves if k not in tensors]:
        raise ArtefactError(f"the adapter file lacks {alone[0]}: fetch or train it again")
    if settings.get("use_dora"):
        raise ArtefactError("this adapter uses DoRA, which Rung does not serve: merge it with PEFT")
    if settings.get("modules_to_save") or settings.get("bias", "none") != "none" or unread:
        what = unread[0] if unread else "modules_to_save or bias"
        raise ArtefactError(f"this LoRA adapter also changes {what}: merge it with PEFT first")
