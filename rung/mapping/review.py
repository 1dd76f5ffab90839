"""The review of a mapping as one page that needs no network: accept or change what is unsure.

What is decided there is saved by the browser as a table of `left` and `right`, which `rung map --pairs`
takes.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from rung.errors import ConfigError
from rung.mapping.climb import Outcome
from rung.mapping.table import UNSURE, Row

SHOWN = 5  # candidates of a record
MAX_REVIEWED = 1000  # records on a page, the least sure first; a phone holds no more
MAX_LISTED = 5000  # right records that can be typed with suggestions


def write_review(outcome: Outcome, rows: Sequence[Row], path: Path) -> int:
    """Write the page and return how many records are on it. Raises ConfigError where it cannot be."""
    unsure = sorted((r for r in rows if r.status == UNSURE), key=lambda r: (r.confidence, r.left))
    page = render(outcome, unsure[:MAX_REVIEWED], len(unsure))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as fault:
        raise ConfigError(f"cannot write {path} ({fault.strerror}): say --review FILE") from None
    return min(len(unsure), MAX_REVIEWED)


def render(outcome: Outcome, unsure: Sequence[Row], total: int) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    problem = outcome.problem
    left = {r.id: r for r in problem.left}
    right = {r.id: r for r in problem.right}
    items = []
    for row in unsure:
        ids = [key for key, _ in row.candidates[:SHOWN]]
        candidates = [(right[key], c) for key, c in row.candidates[:SHOWN]]
        if row.right not in ids:
            candidates.append((right[row.right], row.confidence))
        items.append({"record": left[row.left], "candidates": candidates, "right": row.right})
    environment = Environment(
        loader=PackageLoader("rung.mapping"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("review.html").render(
        left=Path(problem.tables[0].source).name,
        right=Path(problem.tables[1].source).name,
        items=items,
        total=total,
        rung=outcome.winner.name,
        calibrated=outcome.winner.calibration.fitted,
        all_right=[r.id for r in problem.right] if len(problem.right) <= MAX_LISTED else [],
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
