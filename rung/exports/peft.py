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
from rung.methods.peft import through_peft

if TYPE_CHECKING:
    from torch import Tensor


class Export(base.Export):
    summary = "the adapter as PEFT reads it"
    reads = ("text", "pictures")
    keeps_heads = True

    def misfit(self, source: base.Source) -> str | None:
        if not (source.folder / artefact.CONFIG).exists():
            way = "use --to merged" if source.bank.reads == "text" else "serve it with `rung serve`"
            return f"PEFT does not know {source.method.name} here: {way}"
        return None

    def write(self, source: base.Source, folder: Path, dtype: str) -> None:
        for path in source.folder.iterdir():
            if path.name not in (artefact.ABOUT, folders.MANIFEST):
                shutil.copy2(path, folder / path.name)

    def logits(self, source: base.Source, folder: Path, dtype: str) -> Tensor:
        from rung.exports import picture_proof, proof

        if source.bank.reads == "pictures":
            return picture_proof.read_back(source.bank, folder)
        if through_peft.installed():
            return proof.of_peft(folder, source.bank, source.adapter)
        adapter, _ = artefact.load(folder, source.bank)
        return proof.logits(source.bank, source.bank.add(adapter))

    def proven_by(self) -> str:
        return "PEFT" if through_peft.installed() else "Rung's own reader, since PEFT is not installed"
