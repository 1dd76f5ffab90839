"""Prompt tuning: virtual tokens in front of the input (Lester et al., arXiv 2104.08691).

Departs from the paper in its initialisation: `text` starts from the embeddings of real text, by default
replies of the training data, which decides whether a small base learns anything.

    rung tune NAME --method prompt_tuning --virtual-tokens 20 --data ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.errors import MethodMisfit
from rung.methods import base
from rung.methods.workload import Shape

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.types import Modality


@dataclass
class Knobs:
    group: ClassVar[str] = "prompt_tuning"
    virtual_tokens: int = knob(
        20, "How many virtual tokens to learn.", least=1, most=4096, foreign=("num_virtual_tokens",)
    )
    init: str = knob(
        "text",
        "Where to start: random, vocab (what the base has for random tokens) or text.",
        choices=("random", "vocab", "text"),
    )
    init_text: str | None = knob(None, "The text for --init text; training data by default.")


class Method(base.Method):
    summary = "virtual tokens in front of the input"
    paper = "arXiv 2104.08691"
    peft_type = "PROMPT_TUNING"
    Config = Knobs
    defaults = {"lr": 3e-2, "epochs": 5.0}
    search = {"lr": (0.03, 0.015, 0.06)}
    formed = ("virtual_tokens", "init", "init_text")

    def on(self, reads: Modality) -> base.Method:
        if reads == self.modality:
            return self
        from rung.methods.pictures.prompt_tuning import PicturePrompt

        return PicturePrompt(self.name, self.Config)

    def positions(self, config: Knobs) -> int:
        return config.virtual_tokens

    def misfit(self, bank: Bank, config: Knobs) -> str | None:
        if bank.findings.virtual is not None:
            return f"it takes no virtual tokens: {bank.findings.virtual}"
        return super().misfit(bank, config)

    def size(self, bank: Bank, config: Knobs, shape: Shape) -> int:
        return config.virtual_tokens * bank.width

    def build(self, bank: Bank, config: Knobs, start: base.Start) -> Adapter:
        import torch

        from rung.forward.adapter import Adapter

        table = bank.model.get_input_embeddings().weight.detach()
        count, (vocabulary, width) = config.virtual_tokens, table.shape
        if config.init == "random":
            spread = table.float().std().cpu()
            vectors = torch.randn(count, width, generator=start.generator) * spread
        else:
            if config.init == "vocab":
                ids = torch.randint(vocabulary, (count,), generator=start.generator).tolist()
            else:
                ids = text_ids(config, start, count)
            vectors = table[torch.tensor(ids, device=table.device)].float().cpu().clone()
        return Adapter(embeddings=vectors).to(bank.device)

    def to_files(self, adapter: Adapter, bank: Bank, config: Knobs):
        assert adapter.embeddings is not None
        settings = {
            "num_virtual_tokens": adapter.embeddings.shape[0],
            "token_dim": adapter.embeddings.shape[1],
            "num_transformer_submodules": 1,
            **{  # of no use to PEFT here, and not every base has such a number
                key: value
                for key, name in (
                    ("num_attention_heads", "num_attention_heads"),
                    ("num_layers", "num_hidden_layers"),
                )
                if isinstance(value := getattr(bank.config, name, None), int)
            },
            "prompt_tuning_init": "RANDOM",  # PEFT then takes the tensor as it is
        }
        return settings, {"prompt_embeddings": adapter.embeddings}


def text_ids(config: Any, start: base.Start, count: int) -> list[int]:
    """Exactly `count` token ids of `init_text`, or of the training sequences; repeated where short.

    Raises:
        MethodMisfit: when there is no text to take.
    """
    if config.init_text is not None:
        ids = start.encode(config.init_text) if start.encode else []
    else:
        ids = [i for s in start.sequences for i in s][:count]
    if not ids:
        raise MethodMisfit("--init text needs text: give --init-text, or use --init vocab")
    return (ids * (count // len(ids) + 1))[:count]
