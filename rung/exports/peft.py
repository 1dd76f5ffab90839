"""PEFT: the adapter in the layout that `PeftModel.from_pretrained` reads, with tokenizer and card.

rung export coach folder --to peft
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rung.artefacts import folders
from rung.exports import base
from rung.methods import artefact

if TYPE_CHECKING:
    from torch import Tensor


class Export(base.Export):
    summary = "the adapter as PEFT reads it"

    def misfit(self, source: base.Source) -> str | None:
        if source.method.peft_type is None:
            return f"PEFT does not know {source.method.name}: use --to merged"
        return None

    def write(self, source: base.Source, folder: Path, dtype: str) -> None:
        for path in source.folder.iterdir():
            if path.name not in (artefact.ABOUT, folders.MANIFEST):
                shutil.copy2(path, folder / path.name)

    def logits(self, source: base.Source, folder: Path, dtype: str) -> Tensor:
        from rung.exports import proof

        adapter, _ = artefact.load(folder, source.bank)
        return proof.logits(source.bank, source.bank.add(adapter))
