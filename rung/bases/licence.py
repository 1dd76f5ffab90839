"""The licence that a base's card names (`license:` in the Hub's YAML front matter)."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_card(folder: Path) -> dict[str, Any]:
    """The YAML front matter of a folder's README.md; empty when there is none that can be read."""
    import yaml

    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    if not text.startswith("---"):
        return {}
    try:
        content = yaml.safe_load(text[3:].partition("\n---")[0])
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def licence_of(folder: Path) -> str:
    """The licence a folder's card names, such as `apache-2.0`; `unknown` when it names none.

    A card that says `other` is asked for its `license_name`.
    """
    card = read_card(folder)
    licence = card.get("license", "unknown")
    if isinstance(licence, list):
        licence = licence[0] if len(licence) == 1 else "unknown"
    if str(licence).lower() == "other":
        licence = card.get("license_name") or "other"
    return str(licence).strip().lower() or "unknown"
