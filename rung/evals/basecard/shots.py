"""What a base gains from examples in its prompt, on a task that needs no instruction."""

from __future__ import annotations

import random
from typing import Any

from rung.evals.basecard.material import material
from rung.evals.basecard.progress import Progress
from rung.evals.basecard.subject import Subject
from rung.evals.intervals import wilson
from rung.evals.scoring import score

COUNTS = (0, 1, 4, 8)
ASKED = (5, 10)  # things of each kind, quick and thorough


def shots(subject: Subject, quick: bool, progress: Progress) -> dict[str, Any]:
    """Accuracy with 0, 1, 4 and 8 examples in front, each with its interval (Wilson)."""
    task = material().shots
    kinds = list(task.kinds)
    asked = [(thing, kind) for kind in kinds for thing in task.asked[kind][: ASKED[not quick]]]
    rows = []
    for i, count in enumerate(COUNTS):
        front = "".join(
            f"{task.form.format(thing=thing)} {kind}\n\n" for thing, kind in examples(count)
        )
        items = [subject.item(front + task.form.format(thing=thing), kinds) for thing, _ in asked]
        if max(len(i.prompt) + max(map(len, i.answers)) for i in items) > subject.context:
            break
        scores = score(subject.bank, -1, items)
        right = sum(
            kinds[max(range(len(row)), key=row.__getitem__)] == kind
            for row, (_, kind) in zip(scores, asked, strict=True)
        )
        low, high = wilson(right, len(asked))
        rows.append({"shots": count, "accuracy": right / len(asked), "low": low, "high": high})
        progress((i + 1) / len(COUNTS))
    return {
        "chance": 1 / len(kinds),
        "asked": len(asked),
        "counts": rows,
        "gain": rows[-1]["accuracy"] - rows[0]["accuracy"] if rows else 0.0,
    }


def examples(count: int) -> list[tuple[str, str]]:
    """So many (thing, kind) to show, of all kinds as evenly as it goes, always in the same order."""
    task = material().shots
    generator = random.Random(5)
    rounds: list[tuple[str, str]] = []
    for i in range(max(map(len, task.shown.values()))):
        one = [(task.shown[kind][i], kind) for kind in task.kinds if i < len(task.shown[kind])]
        rounds += generator.sample(one, len(one))
    return rounds[:count]
