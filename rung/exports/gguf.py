"""GGUF: the whole model with the adapter built in, in one file that llama.cpp, Ollama and others read.

rung export coach folder --to gguf --dtype q8_0
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.errors import ArtefactError, ConfigError
from rung.exports import base, whole_card
from rung.methods import merging

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FILE = "model.gguf"
# --dtype -> GGUF's type of matrices, and its number for the whole file.
TYPES = {
    "float32": ("F32", "ALL_F32"), "float16": ("F16", "MOSTLY_F16"),
    "bfloat16": ("BF16", "MOSTLY_BF16"), "q8_0": ("Q8_0", "MOSTLY_Q8_0"),
    "q5_1": ("Q5_1", "MOSTLY_Q5_1"), "q5_0": ("Q5_0", "MOSTLY_Q5_0"),
    "q4_1": ("Q4_1", "MOSTLY_Q4_1"), "q4_0": ("Q4_0", "MOSTLY_Q4_0"),
}  # fmt: skip


class Export(base.Export):
    summary = "one file with the adapter built in, as llama.cpp and Ollama read it"
    # Of logits, about 10 in size: what a precision takes from them is what it is chosen for, so the
    # quantised ones are held tensor by tensor besides.
    tolerance = {
        "float32": 1e-3, "float16": 0.05, "bfloat16": 0.5, "q8_0": 1.0,
        "q5_1": 8.0, "q5_0": 8.0, "q4_1": 16.0, "q4_0": 16.0,
    }  # fmt: skip

    def misfit(self, source: base.Source) -> str | None:
        from rung.exports.gguf_model import layout_of

        try:
            layout_of(source.bank.model.config)
        except ConfigError as fault:
            return str(fault)
        return None

    def write(self, source: base.Source, folder: Path, dtype: str) -> None:
        write_model(source, folder / FILE, dtype, merged_of(source))
        whole_card.write(source, folder)

    def logits(self, source: base.Source, folder: Path, dtype: str) -> Tensor:
        from rung.bases import gguf as reader
        from rung.exports import proof
        from rung.forward.bank import Bank

        self._held(source, folder / FILE, dtype)
        # transformers undoes the permutation by code of its own, so that a wrong one shows.
        model = reader.read_model(folder / FILE, exact=True)
        return proof.logits_of(Bank(model.eval()), -1, proof.row_of(source))

    def llama_files(self, source: base.Source, folder: Path, work: Path) -> base.LlamaFiles:
        return base.LlamaFiles(folder / FILE)

    def _held(self, source: base.Source, file: Path, dtype: str) -> None:
        """Raise ArtefactError unless each tensor in the file is the merged one at its precision."""
        import gguf
        import numpy as np

        read = {t.name: t for t in gguf.GGUFReader(file).tensors}
        for name, values in tensors_of(source, merged_of(source)):
            kind = _kind(values, dtype)
            found = gguf.quants.dequantize(read[name].data, read[name].tensor_type)
            bound = _bound(values, kind)
            if found.shape != values.shape or not np.all(np.abs(found - values) <= bound):
                raise ArtefactError(f"{name} reads back otherwise than it was written: not kept")


def bare(source: base.Source, folder: Path) -> Path | None:
    """Write the base alone in float32 -> its file; None where it cannot be a GGUF."""
    import dataclasses

    from rung.forward.adapter import Adapter

    try:
        write_model(dataclasses.replace(source, adapter=Adapter()), folder / FILE, "float32", {})
    except ConfigError:
        return None
    return folder / FILE


def merged_of(source: base.Source) -> dict[str, Tensor]:
    """The base's parameters that the adapter changes, by name. Raises MethodMisfit."""
    return merging.merged(source.adapter, source.bank)


def tensors_of(source: base.Source, changed: dict[str, Tensor]) -> Any:
    """The weights as GGUF holds them, by GGUF's names, in float32, `changed` in place of the base's."""
    from rung.exports import gguf_model

    config = source.bank.model.config
    weights = {**dict(source.bank.model.named_parameters(remove_duplicate=False)), **changed}
    tied = bool(getattr(config, "tie_word_embeddings", False)) and "lm_head.weight" not in changed
    return gguf_model.tensors(weights, config, gguf_model.layout_of(config), tied)


def write_model(source: base.Source, file: Path, dtype: str, changed: dict[str, Tensor]) -> None:
    """Write a whole model with its tokenizer.

    Args:
        changed: parameters that take the place of the base's, by name.
    """
    import gguf

    from rung.exports import gguf_model
    from rung.exports.gguf_vocabulary import write_vocabulary

    config = copy.deepcopy(source.bank.model.config)
    if (rows := source.adapter.tokens) is not None:
        config.vocab_size = max(config.vocab_size, rows.end)
    layout = gguf_model.layout_of(config)
    writer = gguf.GGUFWriter(file, layout.arch)
    writer.add_name(source.about.get("name") or source.folder.name)
    writer.add_string("general.quantized_by", "rung")
    writer.add_file_type(getattr(gguf.LlamaFileType, TYPES[dtype][1]))
    gguf_model.write_metadata(writer, config, layout)
    tokenizer, stop_ids = tokenizer_of(source.folder)
    write_vocabulary(writer, tokenizer, config.vocab_size, stop_ids)
    if dtype.startswith("q"):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, values in tensors_of(source, changed):
        kind = _kind(values, dtype)
        plain = kind == gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, values if plain else gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _kind(values: np.ndarray, dtype: str) -> Any:
    """GGUF's type for one tensor: vectors, and rows that no block divides, stay float32 or float16."""
    import gguf

    kind = getattr(gguf.GGMLQuantizationType, TYPES[dtype][0])
    if values.ndim < 2:
        return gguf.GGMLQuantizationType.F32
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind if values.shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16


def _bound(values: np.ndarray, kind: Any) -> np.ndarray:
    """By how much a value may differ: half a step of its block's grid, (rows, 1) or alike."""
    import gguf
    import numpy as np

    bits = {"Q8_0": 7, "Q5_0": 4, "Q5_1": 4, "Q4_0": 3, "Q4_1": 3}.get(kind.name)
    if bits is None:
        relative = {"F32": 0.0, "F16": 2**-10, "BF16": 2**-7}[kind.name]
        return np.abs(values) * relative + 1e-6
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.abs(values).reshape(-1, block).max(1, keepdims=True)
    # The largest value of a block may fall off the grid's shorter end by a whole step.
    steps = blocks / (2**bits - 1) * 1.1 + 1e-6
    return np.broadcast_to(steps, (steps.shape[0], block)).reshape(values.shape)


def tokenizer_of(folder: Path) -> tuple[Any, tuple[int, ...]]:
    """The tokenizer of a model's folder, and what ends its replies, the end of turn first."""
    from rung.bases.loaded import quiet, read_tokenizer
    from rung.data import Template

    with quiet():
        tokenizer = read_tokenizer(folder)
    return tokenizer, Template.of(tokenizer, generation_config=generation_settings(folder)).stop_ids


def generation_settings(folder: Path) -> dict[str, Any]:
    """The `generation_config.json` of a model's folder; empty where there is none."""
    path = folder / "generation_config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
