"""IA3: learned scales on keys, values and the feed-forward's inner activations (arXiv 2205.05638).

Departs from the paper: where a base fuses queries, keys and values into one projection, all of its
output is scaled, as PEFT does.

    rung tune NAME --method ia3 --data ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rung.config import knob
from rung.errors import MethodMisfit
from rung.methods import base, layers

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank

# Keys and values, then the projection out of the feed-forward, as families call them.
OUTPUTS = ("k_proj", "v_proj", "query_key_value", "attn.c_attn")
INPUTS = ("down_proj", "mlp.c_proj", "dense_4h_to_h", "fc2")


@dataclass
class Knobs:
    group: ClassVar[str] = "ia3"
    outputs: list[str] = knob(
        [], "Projections whose output is scaled; keys and values by default.", names=True
    )
    inputs: list[str] = knob(
        [], "Projections whose input is scaled; the feed-forward's by default.", names=True
    )


class Method(base.Method):
    summary = "learned scales on keys, values and feed-forward"
    paper = "arXiv 2205.05638"
    peft_type = "IA3"
    Config = Knobs
    defaults = {"lr": 3e-2, "epochs": 5.0}
    search = {"lr": (0.03, 0.015, 0.06)}
    formed = ("outputs", "inputs")

    def build(self, bank: Bank, config: Knobs, start: base.Start) -> Adapter:
        import torch

        from rung.forward.adapter import Adapter
        from rung.forward.scale import ScaleOp

        found = {}
        for flag, names, known in (
            ("--outputs", config.outputs, OUTPUTS),
            ("--inputs", config.inputs, INPUTS),
        ):
            on_input = flag == "--inputs"
            for name, (_, d_in, d_out) in _chosen(bank, names, known, flag).items():
                found[name] = ScaleOp(torch.ones(d_in if on_input else d_out), on_input)
        if not found:
            raise MethodMisfit("name this base's projections with --outputs and --inputs")
        return Adapter(linear=found).to(bank.device)

    def to_files(self, adapter: Adapter, bank: Bank, config: Knobs):
        from rung.forward.scale import ScaleOp

        scales = {n: op for n, op in adapter.linear.items() if isinstance(op, ScaleOp)}
        modules = layers.projections(bank)
        settings = {
            "target_modules": sorted(scales),
            "feedforward_modules": sorted(n for n, op in scales.items() if op.on_input),
            "fan_in_fan_out": any(layers.transposed(modules[n][0]) for n in scales),
        }
        # PEFT keeps a row for inputs and a column for outputs.
        tensors = {
            f"{layers.PEFT_PREFIX}{n}.ia3_l": op.scale[None] if op.on_input else op.scale[:, None]
            for n, op in scales.items()
        }
        return settings, tensors


def _chosen(bank: Bank, names: list[str], known: tuple[str, ...], flag: str) -> dict[str, tuple]:
    if names:
        return layers.chosen(bank, names, flag)
    every = layers.read_by_text(bank)
    return {n: p for n, p in every.items() if n.endswith(tuple("." + k for k in known))}
