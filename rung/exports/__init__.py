"""Export formats: one file each, found by its name, or an entry point of `rung.exports`.

A file `NAME.py` here holds a class `Export`; `rung export --to NAME` uses it. An export is kept only
once the logits of what was written are proven equal to the model's (`rung/exports/export.py`).
"""

from __future__ import annotations

from rung.exports.base import Export
from rung.registry import Registry

registry: Registry[Export] = Registry(
    "rung.exports", "Export", "export",
    foreign={"transformers": "merged", "hf": "merged", "huggingface": "merged", "safetensors": "merged",
             "llama.cpp": "gguf", "llamacpp": "gguf", "lora": "peft", "adapter": "peft"},
)  # fmt: skip
names, get = registry.names, registry.get
