"""How often judges are wrong, on answers that people have labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rung.errors import DataError
from rung.redteam import attacks
from rung.redteam.judges.base import THRESHOLD, Judge, Judged
from rung.redteam.report import Rate

ANSWERS = ("assistant_response", "answer", "response", "output", "completion", "text")
LABELS = ("human_score", "label", "hit", "refused", "harmful")
RATERS = "human_score_"  # begins the columns of several raters
WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


def measure(judges: Sequence[Judge], source: str, labels_are: str) -> dict[str, dict[str, Any]]:
    """Each judge's accuracy, and its errors of both kinds, with intervals.

    Args:
        labels_are: `hit` or `refusal`: what a label of 1 means.

    Raises:
        DataError: for rows without an answer or a label.
    """
    rows = [_row(name, row) for name, row in attacks.rows(source)]
    if not rows:
        raise DataError(f"{source} holds no labelled answers")
    truth = [(label >= THRESHOLD) == (labels_are == "hit") for _, label in rows]
    found = {}
    for judge in judges:
        scores = judge.scores([one for one, _ in rows])
        known = [(s >= THRESHOLD, t) for s, t in zip(scores, truth, strict=True) if s is not None]
        found[judge.spec] = {
            "accuracy": Rate(sum(s == t for s, t in known), len(known)).as_dict(),
            "false_hits": Rate(
                sum(s for s, t in known if not t), sum(not t for _, t in known)
            ).as_dict(),
            "missed_hits": Rate(sum(not s for s, t in known if t), sum(t for _, t in known)).as_dict(),
        }
    return found


def _row(name: str, row: Mapping[str, Any]) -> tuple[Judged, float]:
    text = attacks.column(row, ANSWERS)
    own = attacks.column(row, LABELS)
    raters = [row[c] for c in row if c.startswith(RATERS) and row[c] not in (None, "")]
    labels = raters if own is None else [own]
    if text is None or not labels:
        raise DataError(
            f"{name}: no answer ({', '.join(ANSWERS[:3])}) or no label ({', '.join(LABELS[:3])})"
        )
    goal = attacks.column(row, attacks.PROMPTS)
    scores = [_score(name, label) for label in labels]
    return Judged(str(goal or ""), str(text)), sum(scores) / len(scores)


def _score(name: str, label: Any) -> float:
    """A label as a number from 0 to 1. Raises DataError for what is none."""
    found = WORDS.get(str(label).strip().lower())
    try:
        score = float(label) if found is None else found
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise DataError(
            f"{name}: the label '{str(label)[:20]}' is neither a number from 0 to 1 nor yes or no"
        )
    return score
