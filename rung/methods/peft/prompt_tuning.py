"""Prompt tuning (arXiv 2104.08691): vectors in front of the input, as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rung.errors import ArtefactError
from rung.methods.peft.base import Files
from rung.methods.peft.base import Kind as Base

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter

SIZES = frozenset(
    {"num_virtual_tokens", "token_dim", "num_attention_heads", "num_layers", "modules_to_save"}
)


class Kind(Base):
    peft_type = "PROMPT_TUNING"
    method = "prompt_tuning"
    read_keys = SIZES
    passed = frozenset(
        {"prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"}
    )
    defaults = {"num_transformer_submodules": (None, 1)}

    def read(self, files: Files) -> Adapter:
        from rung.forward.adapter import Adapter

        vectors = files.take("prompt_embeddings", (-1, files.bank.width))
        require_count(files, len(vectors))
        return Adapter(embeddings=vectors)


def require_count(files: Files, count: int) -> None:
    """Refuse settings that say another number of positions than the tensor has."""
    told = files.settings.get("num_virtual_tokens", count)
    if told != count:
        raise ArtefactError(f"the file holds {count} virtual tokens, and the settings say {told}")
