"""VeRA (arXiv 2310.11454): two random matrices for all modules, and two vectors for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rung.errors import ArtefactError
from rung.methods.peft.base import Files, UnreadError
from rung.methods.peft.base import Kind as Base

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter


class Kind(Base):
    peft_type = "VERA"
    read_keys = frozenset({"r"})
    passed = frozenset(
        {"projection_prng_key", "save_projection", "vera_dropout", "d_initial", "init_weights"}
    )

    def read(self, files: Files) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.forward.lora import LoraOp

        shared = {n: k for k in files.all for n in ("vera_A", "vera_B") if k.endswith(n)}
        if len(shared) < 2:
            raise UnreadError("this VeRA adapter was saved without its projections (save_projection)")
        rank = files.settings.get("r", 256)
        whole_a = files.take(shared["vera_A"], (rank, -1))
        whole_b = files.take(shared["vera_B"], (-1, rank))
        ops = {}
        for name in files.ending(".vera_lambda_b"):
            _, d_in, d_out = files.module(name)
            by_row = files.take(f"{name}.vera_lambda_b", (d_out,))
            by_rank = files.take(f"{name}.vera_lambda_d", (rank,))
            if whole_a.shape[1] < d_in or len(whole_b) < d_out:
                raise ArtefactError(f"the projections are too small for {name}")
            a, b = by_rank[:, None] * whole_a[:, :d_in], by_row[:, None] * whole_b[:d_out]
            ops[name] = LoraOp(a.contiguous(), b.contiguous(), 1.0)
        if not ops:
            raise ArtefactError("the adapter file holds no vera_lambda_b tensors")
        return Adapter(linear=ops)
