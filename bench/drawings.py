"""1,412 drawings with their names and seven categories, fetched from an npm package."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

from bench import npm_package

PACKAGE = "emoji-datasource-google@16.0.0"
PICTURES = "package/img/google/64/"
CATEGORIES = (
    "Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places",
    "Activities", "Objects",
)  # fmt: skip


def drawings(folder: Path) -> list[dict[str, Any]]:
    """Rows {image, caption, category, seen}; `seen` halves the names by their hashes.

    Args:
        folder: where pictures are kept; filled when it is not there.
    """
    npm_package.kept(PACKAGE, folder, _unpack, "--drawings")
    return json.loads((folder / "rows.json").read_text(encoding="utf-8"))


def _unpack(opened: tarfile.TarFile, target: Path) -> None:
    file = opened.extractfile("package/emoji.json")
    assert file is not None
    known = {e["image"]: e for e in json.load(file) if e["category"] in CATEGORIES}
    rows, seen = [], set()
    for member in opened.getmembers():
        entry = known.get(member.name.removeprefix(PICTURES))
        if entry is None or not member.name.startswith(PICTURES):
            continue
        data = opened.extractfile(member).read()  # type: ignore[union-attr]
        if (digest := hashlib.sha256(data).hexdigest()) not in seen:
            seen.add(digest)
            (target / entry["image"]).write_bytes(data)
            rows.append(row(entry))
    rows.sort(key=lambda r: str(r["image"]))
    (target / "rows.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def row(entry: dict[str, Any]) -> dict[str, Any]:
    """A drawing's row, of the package's entry."""
    name = (entry.get("name") or entry["short_name"].replace("_", " ")).lower()
    half = hashlib.sha256(name.encode()).digest()[0] < 128
    return {"image": entry["image"], "caption": name, "category": entry["category"], "seen": half}


def write(rows: list[dict[str, Any]], folder: Path, name: str) -> Path:
    """Rows beside their pictures as JSON lines."""
    path = folder / name
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path
