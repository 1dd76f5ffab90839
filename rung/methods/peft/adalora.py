"""AdaLoRA (arXiv 2303.10512): LoRA with a factor for each of its directions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rung.errors import ArtefactError
from rung.methods.peft import lora
from rung.methods.peft.base import Files, UnreadError

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter

EPSILON = 1e-5  # that PEFT adds to the number of directions


class Kind(lora.Kind):
    peft_type = "ADALORA"
    method = None
    read_keys = frozenset({"lora_alpha", "init_lora_weights", "r", "rank_pattern"})
    passed = lora.Kind.passed | {
        "target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight",
        "total_step",
    }  # fmt: skip

    def read(self, files: Files) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.forward.lora import LoraOp

        ops = {}
        for name in files.ending(".lora_A"):
            _, d_in, d_out = files.module(name)
            a = files.take(f"{name}.lora_A", (-1, d_in))
            b = files.take(f"{name}.lora_B", (d_out, len(a)))
            e = files.take(f"{name}.lora_E", (len(a), 1))
            if f"{name}.ranknum" not in files.all:
                raise UnreadError(f"{name} has no number of directions")
            count = float(files.take(f"{name}.ranknum", ()))
            scale = files.settings.get("lora_alpha", lora.DEFAULT_ALPHA) / (count + EPSILON)
            ops[name] = LoraOp(a * e, b, scale)
        if not ops:
            raise ArtefactError("the adapter file holds no lora_A tensors")
        return Adapter(linear=ops)
