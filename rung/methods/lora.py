"""LoRA: low-rank weights beside the projections (Hu et al., arXiv 2106.09685).

Departs from the paper in its defaults: all projections are adapted, not only those of queries and
values, and the scale is `alpha / rank`, or `alpha / sqrt(rank)` with `--rslora` (arXiv 2312.03732).

    rung tune NAME --method lora --rank 16 --data ...
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.errors import MethodMisfit
from rung.methods import base, layers, low_rank
from rung.methods.augment import augment_knob
from rung.methods.lora_start import FORMED

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.forward.dropout import Dropout
    from rung.methods.workload import Shape
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
        reads="text",
    )
    activated: str | None = knob(
        None,
        "Text from which on the adapter acts (activated LoRA); before it the base computes.",
        foreign=("alora_invocation_string", "alora_invocation_tokens"),
        reads="text",
    )
    add_tokens: list[str] = knob(
        [],
        "Text that becomes a token of its own, its rows trained too; give it again for more.",
        metavar="TOKEN",
        foreign=("new_special_tokens", "special_tokens", "additional_special_tokens", "added_tokens"),
        reads="text",
    )
    targets: list[str] = knob(
        ["all-linear"],
        "Projections to adapt: all-linear, attention, mlp, or names such as q_proj.",
        names=True,
        foreign=("target_modules", "lora_target_modules", "lora_target"),
    )

    adapted: str = knob(
        "all",
        "Which layers are adapted: all, or the upper half alone (upper), what enters it being computed "
        "once for all epochs.",
        choices=("all", "upper"),
        reads="text",
    )

    augment: list[str] = augment_knob()
    text_tower: bool = knob(
        False,
        "Adapt the text tower of CLIP or SigLIP too, and tell labels apart by their names.",
        reads="pictures",
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
    formed = ("rank", "alpha", "rslora", "dora", "lora_init", "activated", "targets", "adapted")

    def on(self, reads: Modality) -> base.Method:
        if reads == self.modality:
            return self
        from rung.methods.pictures.lora import PictureLora

        return PictureLora(self.name, self.Config)

    def rungs(self, task: Task) -> list[dict[str, Any]]:
        return [{}, {"adapted": "upper"}, {"quantize": "int8"}]

    def behind(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        first = super().behind(settings)
        if first is not None:
            return first
        return None if "adapted" in settings else {**settings, "adapted": "upper"}

    def trained_share(self, config: Knobs, shape: Shape) -> float:
        if config.adapted == "all" or config.add_tokens:  # rows of tokens are trained at the bottom
            return 1.0
        return 1 - (shape.layers // 2) / shape.layers

    def misfit(self, bank: Bank, config: Knobs) -> str | None:
        _adapted(bank, config)  # raises where there is nothing to adapt
        return low_rank.clash(bank, config) or super().misfit(bank, config)

    def build(self, bank: Bank, config: Knobs, start: base.Start) -> Adapter:
        from rung.forward.adapter import Adapter

        if why := self.misfit(bank, config):
            raise MethodMisfit(why)
        dropout = _dropout(config, start)
        ops = {
            name: low_rank.fresh(config, start, name, projection, dropout)
            for name, projection in _adapted(bank, config).items()
        }
        activation = _activation(config.activated, start)
        made = Adapter(linear=ops, activation=activation, dropout=dropout)
        return low_rank.with_tokens(made, bank, start).to(bank.device)

    def added_tokens(self, config: Knobs) -> list[str]:
        return config.add_tokens

    def go_on(self, adapter: Adapter, bank: Bank, config: Knobs, start: base.Start) -> Adapter:
        dropout = _dropout(config, start)
        if dropout is not None:
            ops: Any = adapter.linear
            adapter.linear = {n: low_rank.dropping(op, (dropout, n)) for n, op in ops.items()}
            adapter.dropout = dropout
        return low_rank.with_tokens(adapter, bank, start).to(bank.device)

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
        return low_rank.peft_files(adapter, bank, config)


def _adapted(bank: Bank, config: Knobs) -> dict[str, Any]:
    """The projections that get weights beside them: name -> (module, d_in, d_out).

    Raises:
        MethodMisfit: where there are none, or no list of layers.
    """
    found = layers.chosen(bank, config.targets)
    if config.adapted == "all":
        return found
    names = layers.decoder_layers(bank)
    upper = tuple(f"{name}." for name in names[len(names) // 2 :])
    kept = {name: projection for name, projection in found.items() if name.startswith(upper)}
    if not kept:
        raise MethodMisfit(
            f"--targets {', '.join(config.targets)} names no projection of the upper half: "
            "leave --adapted upper out"
        )
    return kept


def _dropout(config: Knobs, start: base.Start) -> Dropout | None:
    from rung.forward.dropout import Dropout

    return Dropout(config.dropout, start.generator.initial_seed()) if config.dropout else None


def _activation(text: str | None, start: base.Start) -> tuple[int, ...]:
    """The tokens of the text from which on the adapter acts. Raises MethodMisfit for none."""
    if text is None or start.encode is None:
        return ()
    if not (ids := tuple(start.encode(text))):
        raise MethodMisfit("--activated is no text: give what the adapter is called by")
    return ids
