"""IA3 (arXiv 2205.05638): a row that scales a projection's input, or a column for its output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rung.errors import ArtefactError
from rung.methods.peft.base import Files
from rung.methods.peft.base import Kind as Base

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter


class Kind(Base):
    peft_type = "IA3"
    method = "ia3"
    passed = frozenset({"feedforward_modules", "init_ia3_weights"})

    def read(self, files: Files) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.forward.scale import ScaleOp

        found = {}
        for name in files.ending(".ia3_l"):
            _, d_in, d_out = files.module(name)
            key = f"{name}.ia3_l"
            on_input = files.all[key].shape[0] == 1
            shape = (1, d_in) if on_input else (d_out, 1)
            found[name] = ScaleOp(files.take(key, shape).reshape(-1), on_input)
        if not found:
            raise ArtefactError("the adapter file holds no ia3_l tensors")
        return Adapter(linear=found)
