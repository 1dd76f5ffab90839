"""A control vector, as llama.cpp adds it to layers' outputs (`--control-vector FILE`).

One float32 tensor `direction.N` for each steered layer, N counted from 0, the strength built in.
llama.cpp has no place for layer 0 and adds nothing behind the last one: both are refused.

    rung export calm folder --to control_vector
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rung.errors import ArtefactError
from rung.exports import base

if TYPE_CHECKING:
    from torch import Tensor

FILE = "control_vector.gguf"


class Export(base.Export):
    summary = "a steering vector as llama.cpp reads it"

    def misfit(self, source: base.Source) -> str | None:
        from rung.forward.steer import SteerOp

        adapter = source.adapter
        ops = list(adapter.linear.values())
        more = adapter.weights or adapter.tokens or adapter.positions
        if more or not ops or any(type(o) is not SteerOp for o in ops):
            return f"{source.method.name} is more than a direction: use --to gguf, peft or merged"
        layers = [source.bank.layers.boundary_of(name) for name in adapter.linear]
        if 0 in layers:
            return "llama.cpp cannot steer layer 0: tune with --steered from 1 on"
        if source.bank.layers.count - 1 in layers:
            return "llama.cpp steers nothing behind the last layer: tune with --steered below it"
        return None

    def write(self, source: base.Source, folder: Path, dtype: str) -> None:
        import gguf

        writer = gguf.GGUFWriter(folder / FILE, "controlvector")
        writer.add_string("controlvector.model_hint", str(source.bank.model.config.model_type))
        writer.add_uint32("controlvector.layer_count", source.bank.layers.count - 1)
        for layer, vector in sorted(_directions(source).items()):
            writer.add_tensor(f"direction.{layer}", vector.cpu().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        shutil.copy2(source.folder / "README.md", folder / "README.md")

    def logits(self, source: base.Source, folder: Path, dtype: str) -> Tensor:
        import gguf
        import torch

        from rung.exports import proof
        from rung.forward.adapter import Adapter
        from rung.forward.steer import SteerOp, last_modules

        modules, ops = last_modules(source.bank), {}
        for tensor in gguf.GGUFReader(folder / FILE).tensors:
            kind, _, layer = tensor.name.partition(".")
            if kind != "direction" or tensor.tensor_type != gguf.GGMLQuantizationType.F32:
                raise ArtefactError(f"{tensor.name} is no float32 direction: not kept")
            ops[modules[int(layer)]] = SteerOp(torch.tensor(tensor.data))
        return proof.logits(source.bank, source.bank.add(Adapter(linear=ops)))

    def llama_files(self, source: base.Source, folder: Path, work: Path) -> base.LlamaFiles | None:
        from rung.exports import gguf as whole

        model = whole.bare(source, work)
        return None if model is None else base.LlamaFiles(model, control_vector=folder / FILE)


def _directions(source: base.Source) -> dict[int, Tensor]:
    """What each steered layer's output is shifted by, float32 (d,)."""
    from rung.forward.steer import SteerOp

    return {
        source.bank.layers.boundary_of(name): (op.strength * op.vector.detach()).float()
        for name, op in source.adapter.linear.items()
        if isinstance(op, SteerOp)
    }
