"""LN tuning (arXiv 2312.11420): the norms' own weights, as copies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rung.errors import ArtefactError
from rung.methods.peft.base import Files
from rung.methods.peft.base import Kind as Base

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter

LAYER = re.compile(r"(.*)\.ln_tuning_layers\.([^.]+)")


class Kind(Base):
    peft_type = "LN_TUNING"

    def read(self, files: Files) -> Adapter:
        from rung.forward.adapter import Adapter

        own = dict(files.bank.model.named_parameters())
        weights = {}
        for key in list(files.tensors):
            if (found := LAYER.fullmatch(key)) is None:
                continue
            name = f"{found[1]}.{found[2]}"
            if name not in own:
                raise ArtefactError(f"the base has no parameter {name}: was it made for another base?")
            files.require_target(found[1])
            weights[name] = files.take(key, tuple(own[name].shape))
        if not weights:
            raise ArtefactError("the adapter file holds no ln_tuning_layers tensors")
        return Adapter(weights=weights)
