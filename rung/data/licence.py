"""The licence of data, where somebody wrote it down. Unknown is the honest answer elsewhere."""

from __future__ import annotations

import json
import re
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from rung.errors import RungError

UNKNOWN = "unknown"
# Trove classifiers name licences in words; model and data cards use SPDX-like identifiers.
CLASSIFIERS = {
    "mit license": "mit",
    "apache software license": "apache-2.0",
    "bsd license": "bsd",
    "isc license (iscl)": "isc",
    "the unlicense (unlicense)": "unlicense",
    "mozilla public license 2.0 (mpl 2.0)": "mpl-2.0",
    "gnu general public license v3 (gplv3)": "gpl-3.0",
    "gnu general public license v2 (gplv2)": "gpl-2.0",
    "gnu affero general public license v3": "agpl-3.0",
    "cc0 1.0 universal (cc0 1.0) public domain dedication": "cc0-1.0",
    "public domain": "unlicense",
}


def of_metadata(text: str) -> str:
    """The licence in a wheel's METADATA: expression, then classifier, then a short License field."""
    fields = HeaderParser().parsestr(text)
    expression = (fields.get("License-Expression") or "").strip()
    if expression:
        return expression.lower()
    for classifier in fields.get_all("Classifier") or []:
        kind, _, words = classifier.strip().rpartition(" :: ")
        if kind.startswith("License"):
            name = words.lower()
            return CLASSIFIERS.get(name, CLASSIFIERS.get(f"{name} license", name))
    licence = (fields.get("License") or "").strip()
    if licence and "\n" not in licence and len(licence) < 60:  # else it is the licence's full text
        return CLASSIFIERS.get(licence.lower(), licence.lower())
    return UNKNOWN


def of_wheel(package: str, member: Path) -> str:
    """The licence of the wheel that a cached member came from; looked up once, then kept beside it."""
    kept = member.with_name(member.name + ".licence")
    if not kept.is_file():
        kept.write_text(_from_wheel(package, member), encoding="utf-8")
    return kept.read_text(encoding="utf-8")


def _from_wheel(package: str, member: Path) -> str:
    from rung.bases import cached_folder, wheel

    side = cached_folder.SIDE if member.is_dir() else wheel.SIDE
    try:
        record = json.loads(member.with_name(member.name + side).read_text(encoding="utf-8"))
        name, _, version = record["package"].partition("==")
        folder = f"{re.sub(r'[-_.]+', '_', name)}-{version}.dist-info"
        path = wheel.member(package, f"{folder}/METADATA")
        return of_metadata(path.read_text(encoding="utf-8"))
    except (RungError, OSError, ValueError, KeyError, AttributeError):
        return UNKNOWN  # the data can be used without it; the licence is then said to be unknown


def of_npm(package: str) -> str:
    """The licence of an npm package, from its package.json."""
    from rung.bases import npm

    try:
        about = json.loads(npm.member(package, "package.json").read_text(encoding="utf-8"))
    except (RungError, OSError, ValueError):
        return UNKNOWN  # the data can be used without it; the licence is then said to be unknown
    stated = about.get("license") if isinstance(about, dict) else None
    return stated.lower() if isinstance(stated, str) and stated else UNKNOWN


def of_hub(name: str, table: Any) -> str:
    """The licence of a hub data set, from its card."""
    told = getattr(getattr(table, "info", None), "license", None)
    if told:
        return str(told)
    try:
        from huggingface_hub import DatasetCard

        found = DatasetCard.load(name).data.to_dict().get("license")
    except Exception:  # offline, or no card: the library raises several kinds
        return UNKNOWN
    if isinstance(found, list):
        found = found[0] if found else None
    return str(found) if found else UNKNOWN
