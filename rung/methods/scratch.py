"""Training from scratch: a small Llama with random weights and its own tokenizer, on your text alone.

The top rung: it takes nothing from any base, so nothing of one is needed to serve it, and no licence
but the data's applies. Size and vocabulary follow the amount of text unless they are given.

rung tune NAME --method scratch --data ...
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.methods import base, full
from rung.methods.augment import augment_knob
from rung.methods.workload import Shape, Workload
from rung.types import Modality

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank


TOKENS_OF_A_LETTER = 0.3


@dataclass
class Knobs:
    group: ClassVar[str] = "scratch"
    depth: int | None = knob(
        None, "Transformer layers; by the amount of text by default.", least=1, reads="text"
    )
    width: int | None = knob(
        None, "Size of the hidden state; by the amount of text by default.", least=8, most=65536
    )
    heads: int | None = knob(
        None, "Attention heads; one for each 64 of the width by default.", least=1, reads="text"
    )
    vocabulary: int | None = knob(
        None,
        "Most tokens of its own tokenizer; by the amount of text by default.",
        least=260,
        reads="text",
    )
    context: int | None = knob(
        None,
        "Longest sequence in tokens; by the longest text by default, 8192 at most.",
        least=8,
        reads="text",
    )
    augment: list[str] = augment_knob()


class Method(base.Method):
    summary = "a small model of your own, from random weights and its own tokenizer"
    Config = Knobs
    own_weights = True
    own_base = True
    defaults = {"lr": 2e-3, "epochs": 10.0, "weight_decay": 0.1, "beta2": 0.95}

    def on(self, reads: Modality) -> base.Method:
        if reads == self.modality:
            return self
        from rung.methods.pictures.scratch import PictureScratch

        return PictureScratch(self.name, self.Config)

    def base_spec(self, config: Knobs) -> str:
        shape = {
            "layers": config.depth, "width": config.width, "heads": config.heads,
            "vocab": config.vocabulary, "context": config.context,
        }  # fmt: skip
        return "scratch:" + ",".join(f"{k}={v}" for k, v in shape.items() if v is not None)

    def _filled(self, config: Knobs, shape: Shape) -> Any:
        from rung.bases.scratch import ScratchKnobs, filled

        knobs = ScratchKnobs(layers=config.depth, width=config.width, vocab=config.vocabulary)
        return filled(knobs, int(shape.rows * (shape.letters + shape.reply / TOKENS_OF_A_LETTER)))

    def making(self, config: Knobs, shape: Shape, schedule: base.Schedule) -> Workload:
        return super().making(config, shape, schedule) * self._against_base(config, shape)

    def answering(self, config: Knobs, shape: Shape) -> Workload:
        return super().answering(config, shape) * self._against_base(config, shape)

    def size(self, bank: Bank, config: Knobs, shape: Shape) -> int:
        own = self._filled(config, shape)
        return own.layers * 12 * own.width**2 + own.vocab * own.width

    def _against_base(self, config: Knobs, shape: Shape) -> float:
        """What a token takes, over what it takes on the base; the head of a small model counts."""
        own = self._filled(config, shape)
        share = (own.layers * 12 * own.width**2 + own.vocab * own.width) / max(shape.weights, 1)
        return min(1.0, max(share, own.layers / max(shape.layers, 1) / 4))

    def build(self, bank: Bank, config: Knobs, start: base.Start) -> Adapter:
        return full.copied(bank, [n for n, _ in bank.model.named_parameters()])

    def to_files(self, adapter: Adapter, bank: Bank, config: Knobs):
        """Its shape for whoever reads the folder; the weights are those of `to_base`."""
        c = bank.config
        shape = {
            "depth": c.num_hidden_layers, "width": c.hidden_size, "heads": c.num_attention_heads,
            "vocabulary": c.vocab_size, "context": c.max_position_embeddings,
        }  # fmt: skip
        return shape, {}

    def to_base(self, adapter: Adapter, bank: Bank, folder: Path) -> None:
        from safetensors.torch import save_file

        config = bank.model.config.to_dict() | {"dtype": "float32"}
        type(bank.model.config).from_dict(config).save_pretrained(folder)
        plain = {n: t.detach().cpu().float().contiguous() for n, t in adapter.weights.items()}
        save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        """Nothing: the base that it stands on is itself."""
        from rung.forward.adapter import Adapter

        return Adapter()

    def merged(self, adapter: Adapter, bank: Bank) -> dict[str, Tensor]:
        return {n: t.detach().to(bank.dtype) for n, t in adapter.weights.items()}
