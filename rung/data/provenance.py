"""Provenance of a written row: who wrote it, asked what, with which seed, under which licence.

Rows that a model wrote carry it in a column of their own, which is read as neither question nor reply.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rung.artefacts.licences import classify, tightest_licence

COLUMN = "provenance"


def licence_of(rows: Iterable[Mapping[str, Any]], stated: str) -> str:
    """Find the licence of a data set: the tightest of what its source and its rows state.

    Args:
        stated: of the source, `unknown` where it states none. Rows without provenance stand under it.

    Returns:
        the name of a licence; `stated` where no row carries provenance.
    """
    found: dict[str, None] = {}
    bare = False
    for row in rows:
        about = row.get(COLUMN)
        if isinstance(about, Mapping) and isinstance(about.get("licence"), str):
            found[about["licence"]] = None
        else:
            bare = True
    if not found:
        return stated
    if bare or classify(stated) != "unknown":
        found[stated] = None
    return tightest_licence(found)
