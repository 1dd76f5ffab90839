"""The report: success rates with intervals, over-refusal and helpfulness beside them, and hits."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rung.evals.intervals import resampled, wilson
from rung.redteam.judges.base import THRESHOLD, Judge, Judged
from rung.redteam.judges.refusal import refuses
from rung.redteam.target import Answered

HITS, REPORT = "hits.jsonl", "report.json"


@dataclass(frozen=True)
class Rate:
    """A share with its 95% interval by Wilson; prompts that recur count as if they did not."""

    hits: int
    n: int

    def as_dict(self) -> dict[str, Any]:
        """Counts, share and interval; no share where nothing was counted."""
        if not self.n:
            return {"hits": 0, "n": 0}
        low, high = wilson(self.hits, self.n)
        return {"hits": self.hits, "n": self.n, "rate": self.hits / self.n, "low": low, "high": high}


@dataclass(frozen=True)
class Scored:
    """An answer and the score of each judge, the deciding one first; None: not judged."""

    answered: Answered
    scores: tuple[float | None, ...]

    @property
    def hit(self) -> bool | None:
        """Whether the deciding judge calls it a hit."""
        return None if self.scores[0] is None else self.scores[0] >= THRESHOLD


@dataclass(kw_only=True)
class Round:
    """One model attacked once.

    Attributes:
        model: its name. planned: how many conversations there would have been with more time.
        too_long: conversations that did not fit the context; they count nowhere.
        complete: False where time or the user ended it.
    """

    model: str
    judges: Sequence[str]
    planned: int
    attacks: list[Scored] = field(default_factory=list)
    harmless: list[Answered] = field(default_factory=list)
    too_long: int = 0
    complete: bool = True

    def rate(self, judge: int = 0) -> Rate:
        """Success rate of all attacks, by one of the judges."""
        return _rate([s.scores[judge] for s in self.attacks])

    def by(self, name: str) -> dict[str, Rate]:
        """Success rates by `category`, `transform` or `category/transform`."""
        groups: dict[str, list[float | None]] = {}
        for one in self.attacks:
            tried = one.answered.attempt
            keys = {"category": tried.attack.category, "transform": tried.transform}
            key = " / ".join(keys[part] for part in name.split("/"))
            groups.setdefault(key, []).append(one.scores[0])
        return {key: _rate(groups[key]) for key in sorted(groups)}

    @property
    def over_refusal(self) -> Rate:
        """How many harmless prompts were refused."""
        return Rate(sum(refuses(a.text) for a in self.harmless), len(self.harmless))

    def as_dict(self) -> dict[str, Any]:
        """The report as data, without any text of prompts or answers."""
        tables = ("category", "transform", "category/transform")
        return {
            "model": self.model, "judges": list(self.judges), "complete": self.complete,
            "planned": self.planned, "tried": len(self.attacks) + len(self.harmless),
            "too_long": self.too_long,
            "not_judged": sum(s.hit is None for s in self.attacks),
            "success": self.rate().as_dict(),
            "by_judge": {j: self.rate(i).as_dict() for i, j in enumerate(self.judges)},
            **{f"by_{t.replace('/', '_and_')}": {k: r.as_dict() for k, r in self.by(t).items()}
               for t in tables},
            "over_refusal": self.over_refusal.as_dict(),
        }  # fmt: skip


def judged(answers: Sequence[Answered], judges: Sequence[Judge]) -> list[Scored]:
    """Ask every judge about answers to attacks. Raises RungError where one cannot be asked."""
    asked = [Judged(a.attempt.attack.goal, a.text) for a in answers]
    columns = [judge.scores(asked) for judge in judges]
    return [Scored(a, tuple(c[i] for c in columns)) for i, a in enumerate(answers)]


def difference(before: Sequence[Scored], after: Sequence[Scored]) -> dict[str, Any] | None:
    """Change of the success rate on attempts of both rounds, with its interval by paired bootstrap.

    Prompts are drawn with all their transformations, since those answers are alike. Where no prompt
    changed, the interval is as wide as Wilson's of none among as many. None where the two rounds share
    no attempt.
    """
    first = {s.answered.attempt: s.hit for s in before if s.hit is not None}
    sums: dict[tuple[str, ...], list[float]] = {}
    pairs = []
    for one in after:
        attempt = one.answered.attempt
        if one.hit is None or attempt not in first:
            continue
        pairs.append((first[attempt], one.hit))
        found = sums.setdefault(attempt.attack.turns, [0.0, 0.0])
        found[0] += one.hit - first[attempt]
        found[1] += 1
    if not pairs:
        return None
    low, high = resampled(np.array(list(sums.values())), _mean, len(sums), (-1.0, 1.0))
    if low == high == 0:
        high = wilson(0, len(sums))[1]
        low = -high
    was, now = (Rate(sum(bool(p[i]) for p in pairs), len(pairs)) for i in (0, 1))
    change = (now.hits - was.hits) / len(pairs)
    return {
        "before": was.as_dict(), "after": now.as_dict(), "prompts": len(sums),
        "change": {"value": change, "low": low, "high": high},
    }  # fmt: skip


def _mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def _rate(scores: Iterable[float | None]) -> Rate:
    known = [s >= THRESHOLD for s in scores if s is not None]
    return Rate(sum(known), len(known))


def hits(
    found: Round, judges: Sequence[Judge], run_id: str, system: str | None
) -> list[dict[str, Any]]:
    """Hits as rows with the fields of garak's hit log."""
    rows = []
    for seq, one in enumerate(found.attacks):
        if not one.hit:
            continue
        answered = one.answered
        attempt, text = answered.attempt, answered.text
        key = json.dumps([run_id, attempt.turns, attempt.transform])
        said = Judged(attempt.attack.goal, text)
        turns = [
            {"role": m["role"], "content": {"text": m["content"]}} for m in answered.messages(system)
        ]
        rows.append({
            "goal": attempt.attack.goal, "prompt": {"turns": turns, "notes": {}},
            "output": {"text": text}, "triggers": judges[0].triggers(said), "score": one.scores[0],
            "run_id": run_id, "attempt_id": str(uuid.UUID(hashlib.md5(key.encode()).hexdigest())),  # noqa: S324
            "attempt_seq": seq, "attempt_idx": 0, "generator": f"rung {found.model}",
            "probe": f"{attempt.attack.category}.{attempt.transform}", "detector": judges[0].spec,
            "generations_per_prompt": 1,
        })  # fmt: skip
    return rows


def write(folder: Path, name: str, rows: Iterable[dict[str, Any]]) -> Path:
    """Write JSON lines in one step."""
    path = folder / name
    beside = path.with_suffix(".part")
    beside.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    beside.replace(path)
    return path
