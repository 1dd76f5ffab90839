"""The licence that a base's card names (`license:` in the Hub's YAML front matter)."""

from __future__ import annotations

from pathlib import Path

from rung.artefacts.cards import read_card
from rung.errors import ArtefactError


def licence_of(folder: Path) -> str:
    """The licence a folder's card names, such as `apache-2.0`; `unknown` when it names none.

    A card that says `other` is asked for its `license_name`.
    """
    try:
        card = read_card(folder)
    except ArtefactError:  # a card that cannot be read names no licence
        card = {}
    licence = card.get("license", "unknown")
    if isinstance(licence, list):
        licence = licence[0] if len(licence) == 1 else "unknown"
    if str(licence).lower() == "other":
        licence = card.get("license_name") or "other"
    return str(licence).strip().lower() or "unknown"
