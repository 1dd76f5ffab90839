"""GGUF LoRA: the adapter alone, which llama.cpp and Ollama put on a GGUF of the base.

rung export coach folder --to gguf-lora

llama.cpp multiplies by `alpha / rank` of each tensor, and by 1 where alpha is 0. rsLoRA and patterns of
alpha have no place in the format, so the factor of each module is folded into its B, and alpha is the
largest rank, never 0. Rows of query and key projections are permuted as the base's are.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.errors import ConfigError
from rung.exports import base

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FILE = "adapter.gguf"


class Export(base.Export):
    summary = "a LoRA adapter alone, as llama.cpp and Ollama put it on a GGUF of the base"
    tolerance = {"float32": 1e-3, "float16": 0.05}

    def misfit(self, source: base.Source) -> str | None:
        from rung.exports.gguf_model import layout_of
        from rung.forward.lora import LoraOp

        plain = all(type(op) is LoraOp for op in source.adapter.linear.values())
        more = source.adapter.weights or source.adapter.embeddings is not None
        if not source.adapter.linear or not plain or more or source.adapter.keys_values is not None:
            return f"{source.method.name} is more than LoRA on projections: use --to gguf"
        if source.adapter.tokens is not None:
            return "this adapter has rows of tokens, as no adapter of llama.cpp has: use --to gguf"
        if source.adapter.activation:
            return "this adapter acts only behind the text that calls it: use --to peft"
        try:
            layout_of(source.bank.model.config)
        except ConfigError as fault:
            return str(fault)
        return None

    def write(self, source: base.Source, folder: Path, dtype: str) -> None:
        import gguf
        import numpy as np

        from rung.exports.gguf_model import layout_of

        config = source.bank.model.config
        writer = gguf.GGUFWriter(folder / FILE, layout_of(config).arch)
        writer.add_string("general.type", "adapter")
        writer.add_name(source.about.get("name") or source.folder.name)
        writer.add_string("adapter.type", "lora")
        alpha = max(len(op.a) for op in _ops(source).values())
        writer.add_float32("adapter.lora.alpha", float(alpha))
        kind = np.float16 if dtype == "float16" else np.float32
        for name, values in _tensors(source, alpha):
            writer.add_tensor(name, np.ascontiguousarray(values.astype(kind)))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        shutil.copy2(source.folder / "README.md", folder / "README.md")

    def logits(self, source: base.Source, folder: Path, dtype: str) -> Tensor:
        """The base with the adapter that the file holds, its rows in transformers' order again."""
        import torch

        from rung.exports import proof
        from rung.forward.adapter import Adapter
        from rung.forward.lora import LoraOp

        read, alpha = _read(folder / FILE)
        ops: dict[str, Any] = {}
        for name in source.adapter.linear:
            known = _known(name, source.bank.model.config)
            a, b = read[f"{known}.lora_a"], read[f"{known}.lora_b"]
            b = _unpermuted(name, b, source.bank.model.config)
            ops[name] = LoraOp(torch.from_numpy(a), torch.from_numpy(b), alpha / len(a))
        again = Adapter()
        again.linear = ops
        return proof.logits(source.bank, source.bank.add(again))

    def llama_files(self, source: base.Source, folder: Path, work: Path) -> base.LlamaFiles | None:
        from rung.exports import gguf as whole

        model = whole.bare(source, work)
        return None if model is None else base.LlamaFiles(model, lora=folder / FILE)


def _ops(source: base.Source) -> dict[str, Any]:
    return dict(source.adapter.linear)


def _tensors(source: base.Source, alpha: int) -> Any:
    """(name, values) of every A and B in float32, the module's factor in B."""
    from rung.exports.gguf_model import layout_of, placed

    config = source.bank.model.config
    layout = layout_of(config)
    for name, op in _ops(source).items():
        known = _known(name, config)
        b = op.b.detach().float().cpu().numpy() * (op.scale * len(op.a) / alpha)
        if layout.permuted:
            b = placed(f"{name}.weight", b, config, layout)
        yield f"{known}.lora_a", op.a.detach().float().cpu().numpy()
        yield f"{known}.lora_b", b


def _known(module: str, config: Any) -> str:
    """GGUF's name of a projection's weight; raises ConfigError where it has none."""
    import gguf

    from rung.exports.gguf_model import layout_of

    layout = layout_of(config)
    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == layout.arch)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    found = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
    if found is None:
        raise ConfigError(f"GGUF has no name for {module}: use --to merged")
    return found


def _read(file: Path) -> tuple[dict[str, np.ndarray], float]:
    """The tensors of an adapter in float32, and alpha."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(file)
    alpha = reader.fields["adapter.lora.alpha"].contents()
    return {t.name: np.array(t.data, dtype=np.float32) for t in reader.tensors}, float(alpha)


def _unpermuted(name: str, values: np.ndarray, config: Any) -> np.ndarray:
    """Rows from llama.cpp's pairs to transformers' halves, not by the steps that wrote them."""
    import numpy as np

    from rung.exports.gguf_model import layout_of

    if not layout_of(config).permuted or not name.endswith(("q_proj", "k_proj")):
        return values
    own = config.num_attention_heads
    heads = own if name.endswith("q_proj") else getattr(config, "num_key_value_heads", None) or own
    head = values.shape[0] // heads
    place = np.arange(values.shape[0])
    at, within = place // head, place % head
    half = head // 2
    return values[at * head + (within % half) * 2 + within // half]
