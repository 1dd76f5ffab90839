"""Licences: from a model card's identifier to the class that decides what may be done.

Identifiers are those of the Hub's model cards (`license:` in the YAML front matter). The classes
are a reading aid, not legal advice: permissive allows any use; restricted carries conditions on
use or scale; non-commercial forbids selling; closed means that no weights are published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rung.types import LicenceClass

CLASSES: dict[LicenceClass, tuple[str, ...]] = {
    "permissive": (
        "apache-2.0", "mit", "mit-0", "bsd", "bsd-2-clause", "bsd-3-clause",
        "bsd-3-clause-clear", "isc", "zlib", "unlicense", "cc0-1.0", "cc-by-2.0", "cc-by-2.5",
        "cc-by-3.0", "cc-by-4.0", "wtfpl", "artistic-2.0", "bsl-1.0", "ncsa", "postgresql",
        "ecl-2.0", "ms-pl", "pddl", "odc-by", "cdla-permissive-1.0", "cdla-permissive-2.0",
        "afl-3.0",
    ),
    "restricted": (
        "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "openrail",
        "openrail++", "creativeml-openrail-m", "bigscience-openrail-m",
        "bigscience-bloom-rail-1.0", "bigcode-openrail-m", "bigcode-model-license-agreement",
        "falcon-llm-license", "deepseek", "tongyi-qianwen", "qwen", "cc-by-sa-3.0",
        "cc-by-sa-4.0", "gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0",
        "lgpl-lr", "mpl-2.0", "eupl-1.1", "eupl-1.2", "epl-1.0", "epl-2.0", "osl-3.0", "gfdl",
        "cc-by-nd-4.0", "open-mdw", "lfm1.0", "health-ai-developer-foundations", "odbl",
        "cdla-sharing-1.0", "ofl-1.1", "hippocratic-2.0", "etalab-2.0", "c-uda", "lppl-1.3c",
    ),
    "non-commercial": (
        "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
        "fair-noncommercial-research-license", "apple-amlr", "apple-ascl", "intel-research",
        "mrl", "mnpl", "qwen-research", "llama1", "h-research",
    ),
    "closed": ("proprietary",),
}  # fmt: skip


def classify(licence: str) -> LicenceClass:
    """The class of a licence's identifier; unknown when the table does not have it."""
    wanted = licence.strip().lower()
    for name, licences in CLASSES.items():
        if wanted in licences:
            return name
    if "-nc" in wanted or "noncommercial" in wanted or "non-commercial" in wanted:
        return "non-commercial"
    return "unknown"


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
