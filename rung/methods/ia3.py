"""IA3: learned scales on keys, values and the feed-forward's inner activations (arXiv 2205.05638).

Departs from the paper: where a base fuses queries, keys and values into one projection, all of its
output is scaled, as PEFT does.

    rung tune NAME --method ia3 --data ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.errors import ArtefactError, MethodMisfit
from rung.forward.op import LinearOp
from rung.methods import base, layers

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank

# Keys and values, then the projection out of the feed-forward, as families call them.
OUTPUTS = ("k_proj", "v_proj", "query_key_value", "attn.c_attn")
INPUTS = ("down_proj", "mlp.c_proj", "dense_4h_to_h", "fc2")


class ScaleOp(LinearOp):
    """Multiplies a projection's output, or its input, by a learned vector."""

    def __init__(self, scale: Tensor, on_input: bool):
        self.scale, self.on_input = scale, on_input

    def parameters(self) -> dict[str, Tensor]:
        return {"ia3_l": self.scale}

    def before(self, x: Tensor) -> Tensor:
        return x * self.scale.to(x.dtype) if self.on_input else x

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y if self.on_input else y * self.scale.to(y.dtype)


@dataclass
class Knobs:
    group: ClassVar[str] = "ia3"
    outputs: list[str] = knob([], "Projections whose output is scaled; keys and values by default.")
    inputs: list[str] = knob([], "Projections whose input is scaled; the feed-forward's by default.")


class Method(base.Method):
    summary = "learned scales on keys, values and feed-forward"
    paper = "arXiv 2205.05638"
    peft_type = "IA3"
    Config = Knobs
    defaults = {"lr": 3e-2, "epochs": 5.0}
    search = {"lr": (0.03, 0.015, 0.06)}

    def build(self, bank: Bank, config: Knobs, start: base.Start) -> Adapter:
        import torch

        from rung.forward.adapter import Adapter

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

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank):
        from rung.forward.adapter import Adapter

        modules, found = layers.projections(bank), {}
        for key in tensors:
            name, _, part = key.removeprefix(layers.PEFT_PREFIX).rpartition(".")
            if name not in modules or part != "ia3_l":
                raise ArtefactError(f"tensor {key} fits no projection: was it made for another base?")
            _, d_in, d_out = modules[name]
            on_input = tensors[key].shape[0] == 1
            shape = (1, d_in) if on_input else (d_out, 1)
            found[name] = ScaleOp(layers.tensor(tensors, key, shape).reshape(-1), on_input)
        return Adapter(linear=found).to(bank.device)

    def merged(self, adapter: Adapter, bank: Bank) -> dict[str, Tensor]:
        modules, result = layers.projections(bank), {}
        for name, op in adapter.linear.items():
            assert isinstance(op, ScaleOp)
            weight = bank.model.get_parameter(f"{name}.weight").detach()
            # The weight is (d_out, d_in), or (d_in, d_out) where it is kept transposed.
            across = op.on_input != layers.transposed(modules[name][0])
            scale = op.scale.detach().to(weight.dtype)
            result[f"{name}.weight"] = weight * (scale[None] if across else scale[:, None])
            bias = getattr(modules[name][0], "bias", None)
            if bias is not None and not op.on_input:
                result[f"{name}.bias"] = bias.detach() * scale
        return result


def _chosen(bank: Bank, names: list[str], known: tuple[str, ...], flag: str) -> dict[str, tuple]:
    if names:
        return layers.chosen(bank, names, flag)
    every = layers.projections(bank)
    return {n: p for n, p in every.items() if n.endswith(tuple("." + k for k in known))}
