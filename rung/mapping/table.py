"""The table of a mapping: a row for each left record, with confidence, runner-up and status."""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rung.errors import ConfigError
from rung.mapping.candidates import NOBODY
from rung.mapping.climb import Outcome, final

COLUMNS = ("left", "right", "confidence", "runner_up", "runner_up_confidence", "status", "by")
SURE, UNSURE, NONE = "sure", "unsure", "none"
KNOWN = "known"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one left record is.

    Attributes:
        left: its id. right: the id of its partner, "" for none of these.
        runner_up: the next candidate, or the first one where it is none of these.
        status: sure, unsure or none. by: the rung that says so, or `known`.
        candidates: ids with confidences, best first; for the review.
    """

    left: str
    right: str
    confidence: float
    runner_up: str
    runner_up_confidence: float
    status: str
    by: str
    candidates: tuple[tuple[str, float], ...] = ()

    def cells(self) -> list[str]:
        """Texts in the order of COLUMNS."""
        return [
            self.left, self.right, f"{self.confidence:.4f}", self.runner_up,
            f"{self.runner_up_confidence:.4f}" if self.runner_up else "", self.status, self.by,
        ]  # fmt: skip


def rows_of(outcome: Outcome) -> list[Row]:
    """Every left record in the order of the user's table; several rows where several are known."""
    problem, found = outcome.problem, final(outcome)
    assert found.candidates is not None
    place = {r.id: i for i, r in enumerate(problem.left)}
    rows: list[Row] = []
    for record in problem.tables[0].records:
        if record.id in problem.known:
            rows += _known(record.id, problem.known[record.id])
            continue
        i = place[record.id]
        confidences = outcome.winner.confidences[i]
        column, first = int(found.chosen[i]), found.candidates.places[i]
        order = np.argsort(-confidences, kind="stable")
        listed = tuple((problem.right[int(first[j])].id, float(confidences[j])) for j in order)
        at = float(confidences[column]) if column != NOBODY else 0.0
        mapped = column != NOBODY and at >= found.threshold
        right = problem.right[int(first[column])].id if mapped else ""
        others = [c for c in listed if c[0] != right]
        second = others[0] if others else ("", 0.0)
        status = NONE if not mapped else SURE if at >= problem.knobs.sure else UNSURE
        rows.append(
            Row(
                left=record.id,
                right=right,
                confidence=at if mapped else 1 - second[1],
                runner_up=second[0],
                runner_up_confidence=second[1],
                status=status,
                by=found.name,
                candidates=listed,
            )  # fmt: skip
        )
    return rows


def _known(left: str, right: frozenset[str]) -> list[Row]:
    """Rows of what is known: one for each right record, or one that says none."""
    return [
        Row(
            left=left,
            right=key,
            confidence=1.0,
            runner_up="",
            runner_up_confidence=0.0,
            status=SURE if key else NONE,
            by=KNOWN,
        )  # fmt: skip
        for key in sorted(right) or [""]
    ]


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write the table as CSV, whole or not at all. Raises ConfigError where it cannot be written."""
    lines = [COLUMNS, *(row.cells() for row in rows)]
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)
        os.replace(temporary, path)
    except OSError as fault:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {path} ({fault.strerror}): say --out FILE") from None
