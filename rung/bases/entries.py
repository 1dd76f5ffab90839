"""The catalogue of well-known bases: short names, where they come from and their licences.

It is data (`catalogue.toml`), not a gate: any Hugging Face causal language model can be a base.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rung.types import LicenceClass

DEFAULT = "smollm2-135m"


@dataclass(frozen=True)
class CatalogueEntry:
    """One base as the catalogue describes it.

    `parameters` counts weights (0: not published), `context` tokens (0: does not apply). `hub` is
    the Hugging Face id of the original when `spec` is another way to get it.
    """

    name: str
    spec: str
    organisation: str
    licence: str
    licence_class: LicenceClass
    parameters: int
    context: int
    modality: str  # text, vision or multimodal
    notes: str = ""
    hub: str = ""

    @property
    def hub_id(self) -> str:
        """The Hugging Face id of the original, or an empty string."""
        if self.hub:
            return self.hub
        return "" if ":" in self.spec else self.spec


def catalogue() -> list[CatalogueEntry]:
    """All entries, in the file's order."""
    return list(read())


@cache
def read() -> tuple[CatalogueEntry, ...]:
    """The file, read once."""
    with Path(__file__).with_name("catalogue.toml").open("rb") as file:
        return tuple(CatalogueEntry(**row) for row in tomllib.load(file)["base"])


def entry_of(text: str) -> CatalogueEntry | None:
    """The entry of that name, or the one whose spec it is.

    The Hub id of an original does not count: who writes it wants the original, not the copy that
    the catalogue knows another way to.
    """
    for entry in read():
        if text.lower() == entry.name or text == entry.spec:
            return entry
    return None
