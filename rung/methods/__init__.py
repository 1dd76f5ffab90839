"""The ways to adapt a base: one file each, found by its name.

A file `NAME.py` here, or an entry point NAME in the group `rung.methods`, holds a class `Method`
whose `Config` is a dataclass of knobs. The file's name is the method's name everywhere.
"""

from __future__ import annotations

from rung.methods.base import Method
from rung.registry import Registry

# What people who come from elsewhere type.
_FOREIGN = {
    "qlora": "lora with --quantize nf4", "p_tuning": "prompt_tuning", "soft_prompt": "prompt_tuning",
    "full_finetuning": "full", "fft": "full", "icl": "few_shot", "cot": "chain_of_thought",
    "prefix": "prefix_tuning",
}  # fmt: skip

registry: Registry[Method] = Registry("rung.methods", "Method", "method", foreign=_FOREIGN)
names, get = registry.names, registry.get


def of_peft_type(peft_type: str) -> Method | None:
    """The method whose artefacts PEFT calls by this type, or None."""
    return next((m for m in registry.all() if m.peft_type == peft_type), None)
