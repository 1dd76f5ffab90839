"""LoRA: low-rank weights beside the projections (Hu et al., arXiv 2106.09685).

Departs from the paper in its defaults: all projections are adapted, not only those of queries and
values, and the scale is `alpha / rank`, or `alpha / sqrt(rank)` with `--rslora` (arXiv 2312.03732).

    rung tune NAME --method lora --rank 16 --data ...
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.errors import MethodMisfit
from rung.methods import base, layers, lora_start
from rung.methods.augment import augment_knob
from rung.methods.lora_start import FORMED

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.forward.op import LinearOp
    from rung.types import Modality, Task

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
    lora_init: str = knob(
        "zero",
        "Where training begins: zero, or pissa or olora, a part of the weights themselves.",
        choices=("zero", *FORMED),
        foreign=("init_lora_weights",),
    )
    dropout: float = knob(
        0.0,
        "Share of a projection's input that the added weights do not see in a step of training.",
        least=0,
        most=0.95,
        foreign=("lora_dropout",),
    )
    activated: str | None = knob(
        None,
        "Text from which on the adapter acts (activated LoRA); before it the base computes.",
        foreign=("alora_invocation_string", "alora_invocation_tokens"),
    )
    targets: list[str] = knob(
        ["all-linear"],
        "Projections to adapt: all-linear, attention, mlp, or names such as q_proj.",
        names=True,
        foreign=("target_modules", "lora_target_modules", "lora_target"),
    )

    augment: list[str] = augment_knob()
    text_tower: bool = knob(
        False,
        "Adapt the text tower of CLIP or SigLIP too, and tell labels apart by their names.",
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
    elsewhere = ("augment", "text_tower")
    defaults = {"lr": 1e-3, "epochs": 3.0}
    search = {"lr": (0.001, 0.0005, 0.002)}

    def on(self, reads: Modality) -> base.Method:
        if reads == self.modality:
            return self
        from rung.methods.pictures.lora import PictureLora

        return PictureLora(self.name, self.Config)

    def rungs(self, task: Task) -> list[dict[str, Any]]:
        return [{}, {"quantize": "int8"}]

    def misfit(self, bank: Bank, config: Knobs) -> str | None:
        return clash(bank, config) or super().misfit(bank, config)

    def build(self, bank: Bank, config: Knobs, start: base.Start) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.forward.dropout import Dropout

        if why := self.misfit(bank, config):
            raise MethodMisfit(why)
        dropout = None
        if config.dropout:
            dropout = Dropout(config.dropout, start.generator.initial_seed())
        ops = {
            name: fresh(config, start, name, projection, dropout)
            for name, projection in layers.chosen(bank, config.targets).items()
        }
        activation = _activation(config.activated, start)
        return Adapter(linear=ops, activation=activation, dropout=dropout).to(bank.device)

    def rates(self, config: Knobs, names: Iterable[str]) -> dict[str, float]:
        """LoRA+ (Hayou et al., arXiv 2402.12354): B learns faster than A."""
        return outer_rates(config, names)

    def untrainable(self, adapter: Adapter) -> str | None:
        from rung.forward.dora import DoraOp
        from rung.forward.lora import LoraOp

        if adapter.weights or any(type(op) not in (LoraOp, DoraOp) for op in adapter.linear.values()):
            return "it holds more than LoRA: export it --to merged and begin from that as a base"
        return None

    def to_files(self, adapter: Adapter, bank: Bank, config: Knobs):
        return peft_files(adapter, bank, config)


def clash(bank: Bank, config: Knobs) -> str | None:
    """Why settings do not go with each other or with a base, or None.

    Raises:
        MethodMisfit: for targets that name no projection.
    """
    if config.dora and (config.lora_init in FORMED or config.activated):
        other = "activated" if config.activated else "lora_init"
        return f"PEFT has no DoRA with --{other.replace('_', '-')}: leave one of the two out"
    if config.activated and config.lora_init in FORMED:
        return (
            f"--lora-init {config.lora_init} takes a part out of the base, which with --activated "
            "stays as it is in front of the call: leave one of the two out"
        )
    if config.lora_init == "olora" and any(
        layers.transposed(m) for m, _, _ in layers.chosen(bank, config.targets).values()
    ):
        return "PEFT has no OLoRA for this base's transposed projections: use --lora-init pissa"
    return None


def outer_rates(config: Knobs, names: Iterable[str]) -> dict[str, float]:
    """Times the learning rate of each B, by its name, with LoRA+."""
    outer = (".lora_B", ".lora_B_bias")
    return {name: config.plus for name in names if config.plus != 1 and name.endswith(outer)}


def peft_files(adapter: Adapter, bank: Bank, config: Knobs) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors in PEFT's layout."""
    from rung.forward.dora import DoraOp

    ops: Any = {name: op.kept() for name, op in adapter.linear.items()}
    modules = layers.projections(bank)
    root = math.sqrt if config.rslora else float
    ranks = {name: len(op.a) for name, op in ops.items()}  # a parent's may be others
    alphas = {name: op.scale * root(ranks[name]) for name, op in ops.items()}
    rank, alpha = (Counter(each.values()).most_common(1)[0][0] for each in (ranks, alphas))
    settings = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: one for name, one in ranks.items() if one != rank},
        "alpha_pattern": {n: a for n, a in alphas.items() if not math.isclose(a, alpha)},
        "use_rslora": config.rslora,
        "use_dora": any(isinstance(op, DoraOp) for op in ops.values()),
        "target_modules": sorted(ops),
        "fan_in_fan_out": any(layers.transposed(modules[n][0]) for n in ops),
        "lora_dropout": config.dropout,
        "bias": "none",
    }
    if adapter.activation:
        settings["alora_invocation_tokens"] = list(adapter.activation)
    tensors = {}
    for name, op in ops.items():
        for part, value in op.parameters().items():
            part = "lora_magnitude_vector" if part == "magnitude" else f"{part}.weight"
            tensors[f"{layers.PEFT_PREFIX}{name}.{part}"] = value
    return settings, tensors


def fresh(
    config: Knobs, start: base.Start, name: str, projection: tuple[Any, int, int], dropout: Any
) -> LinearOp:
    """What training begins from at one projection."""
    import torch

    from rung.forward.dora import DoraOp
    from rung.forward.lora import LoraOp, StartedLoraOp

    module, d_in, d_out = projection
    place = (dropout, name) if dropout else None
    if config.lora_init in FORMED:
        if config.rank > min(d_in, d_out):
            raise MethodMisfit(
                f"--rank {config.rank} is more than {name} has directions ({min(d_in, d_out)}) for "
                f"--lora-init {config.lora_init}: take fewer"
            )
        a, b = lora_start.formed(config.lora_init, module, config.rank, config.scale)
        return StartedLoraOp(a.clone(), b.clone(), config.scale, (a, b), place)
    bound = 1 / math.sqrt(d_in)  # what kaiming_uniform with a = sqrt(5) comes to
    a = torch.empty(config.rank, d_in).uniform_(-bound, bound, generator=start.generator)
    b = torch.zeros(d_out, config.rank)
    if config.dora:
        made = DoraOp.fresh(a, b, config.scale, module, layers.transposed(module))
        made.dropout = place
        return made
    return StartedLoraOp(a, b, config.scale, None, place) if place else LoraOp(a, b, config.scale)


def _activation(text: str | None, start: base.Start) -> tuple[int, ...]:
    """The tokens of the text from which on the adapter acts. Raises MethodMisfit for none."""
    if text is None or start.encode is None:
        return ()
    if not (ids := tuple(start.encode(text))):
        raise MethodMisfit("--activated is no text: give what the adapter is called by")
    return ids
