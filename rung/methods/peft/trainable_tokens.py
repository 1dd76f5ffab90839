"""Trainable tokens: some rows of the embeddings, in place of the base's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rung.errors import ArtefactError
from rung.methods.peft.base import Files
from rung.methods.peft.base import Kind as Base
from rung.methods.peft.tables import ROWS

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter


class Kind(Base):
    peft_type = "TRAINABLE_TOKENS"
    read_keys = frozenset({"token_indices"})
    passed = frozenset({"init_weights"})

    def read(self, files: Files) -> Adapter:
        from rung.forward.adapter import Adapter

        end = ".trainable_tokens_delta"
        found = [n for n in files.tensors if n.endswith(end) and not n.endswith(ROWS)]
        for name in found:
            files.tensors[name.removesuffix(end) + ROWS] = files.tensors.pop(name)
        if not any(n.endswith(ROWS) for n in files.tensors):
            raise ArtefactError("the adapter file holds no trainable_tokens_delta tensors")
        files.all = dict(files.tensors)
        return Adapter()
