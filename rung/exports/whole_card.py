"""The card of a model that is written whole: what it holds, with every part and its licence."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from rung.artefacts.cards import Card, Part, write_card

if TYPE_CHECKING:
    from rung.exports.base import Source


def write(source: Source, folder: Path) -> None:
    """Write README.md for a base with an adapter built in.

    The base, every model that was trained on from, and all their data are named with their licences.
    """
    about, base, root = source.about, source.base.info, source.lineage
    if root is None:
        shutil.copy2(source.folder / "README.md", folder / "README.md")
        return
    parts = [node for node in root.walk() if node is not root]
    objective = str((about.get("settings") or {}).get("objective") or "")
    card = Card(
        name=root.name, base=base.spec, base_name=base.name, hub_base=base.extra.get("hub_id", ""),
        method=source.method.name, relation="finetune", peft=False,
        objective=objective if source.method.trained else "", parent=about.get("parent"),
        datasets=[SimpleNamespace(**about["data"])] if about.get("data") else [],
        licence=base.licence, licence_class=root.licence_class,
        made_from=[
            Part(part.kind, part.name, part.licence or "its own parts'", part.licence_class)
            for part in parts
        ],
        metrics=about.get("metrics") or {}, cost=about.get("cost") or {},
        settings=about.get("settings") or {},
    )  # fmt: skip
    write_card(folder, card)
