"""The errors that teach most: where the winner is sure and wrong, or the best rungs disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import pvariance
from typing import Any

from rung.errors import DataError
from rung.evals.tasks import question, reply
from rung.store.climbs import RungRecord
from rung.types import Example, last_question

BEST = 3  # rungs that are compared
SHOWN = 10
LETTERS = 600  # of a row that are shown
MAX_THUMBNAILS = 4  # of a row
THUMBNAIL_SIDE, THUMBNAIL_BYTES = 160, 12_000  # pixels of the longer side, and of each JPEG, at most


@dataclass(frozen=True)
class Lesson:
    """One row: what was asked, what was right, and what each of the best rungs answered.

    `pictures` are those of the question, each with its name: a `data:` URL, or None where the file is
    gone or has changed since.
    """

    origin: str
    asked: str
    right: str
    answers: dict[str, tuple[str, bool]]
    sure: float | None
    why: str
    pictures: tuple[tuple[str, str | None], ...] = ()


def lessons(
    examples: Sequence[Example], records: Sequence[RungRecord], winner: str | None, lower: bool
) -> list[Lesson]:
    """Rows of validation, the most instructive first.

    Args:
        examples: in the order in which they were answered.
        lower: whether less of the metric is better.
    """
    sign = -1 if lower else 1
    known = [r for r in records if r.method and _has_items(r, len(examples))]
    known.sort(key=lambda r: (r.key != winner, -sign * r.metrics["validation"]["value"]))
    best = known[:BEST]
    if not best or best[0].key != winner:
        return []
    scored = [(_score(best, i, sign), i) for i in range(len(examples))]
    kept = sorted((s, i) for s, i in scored if s > 0)[::-1][:SHOWN]
    return [_lesson(examples[i], best, i) for _, i in kept]


def _has_items(record: RungRecord, count: int) -> bool:
    items = record.items.get("validation", {})
    return record.status == "succeeded" and len(items.get("values", ())) == count


def _score(best: Sequence[RungRecord], i: int, sign: int) -> float:
    """Wrong and sure counts most; disagreement alone a little."""
    worth = [sign * _values(r)[i] for r in best]
    spread = pvariance(worth) if len(worth) > 1 else 0.0
    ceiling = max(_values(best[0])) * sign if sign > 0 else -min(_values(best[0]))
    missing = ceiling - worth[0]
    if missing <= 0:
        return 0.2 * spread
    return missing * (0.5 + (_sure(best[0], i) or 0.5)) + 0.2 * spread


def _lesson(example: Example, best: Sequence[RungRecord], i: int) -> Lesson:
    asked = last_question(question(example))
    values = [_values(r)[i] for r in best]
    answers = {
        r.key: (_short(r.items["validation"]["texts"][i], 200), v >= max(values) and v > 0)
        for r, v in zip(best, values, strict=True)
    }
    sure = _sure(best[0], i)
    if values[0] < max(values):
        why = "another rung gets it right"
    elif len(set(values)) > 1:
        why = "the winner gets it right, another good rung does not"
    elif len(values) > 1:
        why = "all of the best rungs miss it: hard, or labelled wrongly"
    else:
        why = "the winner misses it"
    return Lesson(example.origin, _short(asked, LETTERS), _short(reply(example) or "", 200),
                  answers, sure, why, _thumbnails(example))  # fmt: skip


def _thumbnails(example: Example) -> tuple[tuple[str, str | None], ...]:
    """The last pictures that a row asks about, small."""
    shown = [p for m in question(example) for p in m.get("pictures", ())][-MAX_THUMBNAILS:]
    if not shown:
        return ()
    from rung.pictures import reading

    found: list[tuple[str, str | None]] = []
    for picture in shown:
        try:
            url = reading.thumbnail(picture, THUMBNAIL_SIDE, THUMBNAIL_BYTES)
        except DataError:
            url = None
        found.append((picture.name, url))
    return tuple(found)


def _values(record: RungRecord) -> list[float]:
    return record.items["validation"]["values"]


def _sure(record: RungRecord, i: int) -> float | None:
    sure: list[Any] = record.items["validation"].get("sure") or []
    return sure[i] if i < len(sure) else None


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
