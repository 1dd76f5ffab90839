"""Prefix tuning (arXiv 2101.00190): keys and values in front of every layer's own; where a network was
trained along (`prefix_projection`), PEFT keeps what it gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rung.errors import ArtefactError
from rung.methods import prefix_tuning
from rung.methods.peft.base import Files
from rung.methods.peft.base import Kind as Base
from rung.methods.peft.prompt_tuning import SIZES, require_count

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter


class Kind(Base):
    peft_type = "PREFIX_TUNING"
    method = "prefix_tuning"
    read_keys = SIZES
    passed = frozenset({"encoder_hidden_size", "prefix_projection", "init_weights"})
    defaults = {"num_transformer_submodules": (None, 1)}

    def read(self, files: Files) -> Adapter:
        from rung.forward.adapter import Adapter

        count, _, _, heads, width = prefix_tuning.shape_of(files.bank, 0)
        flat = files.take("prompt_embeddings", (-1, count * 2 * heads * width))
        require_count(files, len(flat))
        for key, own in (("num_attention_heads", heads), ("num_layers", count)):
            if files.settings.get(key, own) != own:
                raise ArtefactError(
                    f"the settings say {key} {files.settings[key]}, and this base's cache has {own}"
                )
        keys_values = flat.view(-1, count, 2, heads, width).permute(1, 2, 0, 3, 4).contiguous()
        return Adapter(keys_values=keys_values)
