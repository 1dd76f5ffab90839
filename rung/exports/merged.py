"""Merged: the whole model with the adapter added into the base's weights, as transformers reads it.

rung export coach folder --to merged --dtype bfloat16
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rung import bases
from rung.exports import base, whole_card
from rung.methods import merging

if TYPE_CHECKING:
    from torch import Tensor

TOKENIZER = ("tokenizer", "chat_template", "special_tokens", "vocab", "merges")  # how its files begin


class Export(base.Export):
    summary = "the whole model with the adapter built in, as transformers reads it"
    tolerance = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.25}

    def write(self, source: base.Source, folder: Path, dtype: str) -> None:
        import torch

        weights = merging.merged(source.adapter, source.bank)
        fresh = bases.load(source.base.info)
        merging.put_into(fresh.model, weights)
        fresh.model.to(getattr(torch, dtype)).save_pretrained(folder)
        for path in source.folder.iterdir():
            if path.name.startswith(TOKENIZER):
                shutil.copy2(path, folder / path.name)
        # The stop tokens travel too: without them the merged model would never end its turn.
        shutil.copy2(source.folder / "generation_config.json", folder / "generation_config.json")
        whole_card.write(source, folder)

    def logits(self, source: base.Source, folder: Path, dtype: str) -> Tensor:
        from rung.exports import proof
        from rung.forward.bank import Bank

        read = bases.load(bases.resolve(str(folder)), dtype=dtype)
        return proof.logits_of(Bank(read.model), -1, proof.row_of(source))
