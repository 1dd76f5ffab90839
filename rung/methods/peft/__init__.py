"""Adapters as PEFT writes them: one file for each kind that Rung reads by itself.

A file `NAME.py` here holds a class `Kind`. Kinds that have none are read with PEFT's own code where it
is installed (`through_peft.py`), or refused by name.
"""

from __future__ import annotations

from rung.methods.peft.base import Kind
from rung.registry import Registry

registry: Registry[Kind] = Registry("rung.methods.peft", "Kind", "kind of adapter")


def of_type(peft_type: str) -> Kind | None:
    """The kind that PEFT calls by this type, or None where Rung has no reader of its own."""
    return next((k for k in registry.all() if k.peft_type == peft_type), None)
