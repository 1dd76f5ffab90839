"""A projector: a frozen language model that sees through a frozen vision encoder.

After LLaVA (arXiv 2304.08485). A small MLP maps what the encoder sees of a picture into the language
model's embeddings; they stand in the prompt where the picture does. Departs from LLaVA: patches are
averaged to a grid of `picture_side` cells on each side, and normalised, before the MLP. A second stage,
which goes on from the first with `--parent`, trains LoRA on the language model beside it.

    rung tune NAME --method projector --vision efficientnet-lite0 --data captions.jsonl
    rung tune NAME2 --method projector --parent NAME --sight-rank 8 --data instructions.jsonl
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rung import bases
from rung.config import knob
from rung.errors import ArtefactError, MethodMisfit
from rung.methods import base, layers
from rung.methods.workload import Shape
from rung.types import BaseInfo, Task

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.forward.op import LinearOp

VISION = ("spec", "name", "digest", "licence")  # what is kept of the encoder


@dataclass
class Knobs:
    group: ClassVar[str] = "projector"
    vision: str = knob(
        "efficientnet-lite0",
        "The vision encoder: a base that reads pictures.",
        foreign=("vision_model",),
    )
    picture_side: int = knob(
        4, "A picture is so many tokens on each side, 16 of them by default.", least=1, most=16
    )
    hidden: int | None = knob(
        None, "Hidden width of the MLP; the language model's by default.", least=1
    )
    sight_rank: int = knob(
        0, "Rank of LoRA on the language model, trained beside the MLP; 0 for none.", least=0, most=512
    )


class Method(base.Method):
    summary = "a frozen language model that sees through a frozen vision encoder"
    paper = "arXiv 2304.08485"
    Config = Knobs
    defaults = {"lr": 1e-3, "epochs": 5.0}
    search = {"lr": (0.001, 0.0005, 0.002)}
    formed = ("hidden",)

    def misread(self, task: Task) -> str | None:
        return None if task.pictures else "it learns to see, and no row shows a picture"

    def unsuited(self, task: Task, config: Knobs) -> str | None:
        return "its base sees nothing that it could be compared with: use rung tune"

    def misfit(self, bank: Bank, config: Knobs) -> str | None:
        if bank.findings.virtual is not None:
            return f"it takes no picture tokens: {bank.findings.virtual}"
        return super().misfit(bank, config)

    def further_bases(self, adapter: Adapter) -> list[BaseInfo]:
        return [] if adapter.sight is None else [adapter.sight.encoder.encoder.info]

    def picture_tokens(self, config: Knobs) -> int:
        return config.picture_side**2

    def size(self, bank: Bank, config: Knobs, shape: Shape) -> int:
        from rung.forward.vision import open_vision

        hidden = config.hidden or bank.width
        seen = open_vision(config.vision, bank.device.type).encoder.token_width
        lora = sum(
            config.sight_rank * (d_in + d_out)
            for _, d_in, d_out in layers.chosen(bank, ["all-linear"]).values()
        ) if config.sight_rank else 0  # fmt: skip
        return hidden * (seen + 1) + bank.width * (hidden + 1) + lora

    def build(self, bank: Bank, config: Knobs, start: base.Start) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.forward.sight import Sight
        from rung.forward.vision import open_vision

        encoder = open_vision(config.vision, bank.device.type)
        table = bank.model.get_input_embeddings().weight
        sight = Sight.fresh(
            encoder, config.picture_side, config.hidden or bank.width, table, start.generator
        )
        return self.go_on(Adapter(sight=sight), bank, config, start).to(bank.device)

    def go_on(self, adapter: Adapter, bank: Bank, config: Knobs, start: base.Start) -> Adapter:
        """With LoRA beside the MLP, where there is none yet."""
        import torch

        from rung.forward.lora import LoraOp

        sight = adapter.sight
        assert sight is not None
        if sight.side != config.picture_side:
            raise MethodMisfit(f"the parent sees {sight.side} cells: use --picture-side {sight.side}")
        if (info := sight.encoder.encoder.info).digest != bases.resolve(config.vision).digest:
            raise MethodMisfit(f"the parent sees through another encoder: use --vision {info.spec}")
        if adapter.linear and config.sight_rank:
            raise MethodMisfit(
                "the parent has LoRA beside its MLP, which is trained on: leave --sight-rank out"
            )
        if not config.sight_rank:
            return adapter
        ops: dict[str, LinearOp] = {}
        for name, (_, d_in, d_out) in layers.chosen(bank, ["all-linear"]).items():
            a = torch.empty(config.sight_rank, d_in)
            a.uniform_(-1 / math.sqrt(d_in), 1 / math.sqrt(d_in), generator=start.generator)
            ops[name] = LoraOp(a, torch.zeros(d_out, config.sight_rank), 2.0)
        adapter.linear = ops
        return adapter

    def to_files(self, adapter: Adapter, bank: Bank, config: Knobs):
        assert adapter.sight is not None
        info = adapter.sight.encoder.encoder.info
        settings = {
            "vision": {name: getattr(info, name) for name in VISION},
            "picture_side": adapter.sight.side,
            "scales": {name: op.scale for name, op in adapter.linear.items()},  # type: ignore[attr-defined]
        }
        return settings, super().to_files(adapter, bank, config)[1]

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.forward.lora import LoraOp
        from rung.forward.sight import Sight
        from rung.forward.vision import open_vision

        vision = settings.get("vision", {})
        side, scales = settings.get("picture_side"), settings.get("scales", {})
        if not isinstance(side, int) or not vision.get("spec") or not isinstance(scales, dict):
            raise ArtefactError("settings.json does not say what the model sees with: it is incomplete")
        encoder = open_vision(vision["spec"], bank.device.type, vision.get("digest"))
        own = {n.removeprefix("sight."): t for n, t in tensors.items() if n.startswith("sight.")}
        ops: dict[str, LinearOp] = {}
        for name, scale in scales.items():
            parts = [tensors.get(f"linear.{name}.{part}") for part in ("lora_A", "lora_B")]
            if any(part is None or not bool(part.isfinite().all()) for part in parts):
                raise ArtefactError(
                    f"the weights of {name} are missing or not finite: it is incomplete"
                )
            ops[name] = LoraOp(parts[0], parts[1], float(scale))  # type: ignore[arg-type]
        sight = Sight.read(encoder, side, own, bank.width)
        return Adapter(sight=sight, linear=ops).to(bank.device)
