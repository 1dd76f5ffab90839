"""Turns of a synthesis: the label and angle of each draft, who writes it, and which rows are shown.

None of these may follow from another, nor a label from its topic: where all rows of a label are brief,
or by one teacher, a model learns that in place of the label, and held-out rows, written alike, do not
tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, lcm

from rung.synthesis.topics import ANGLES

STRIDE = (
    0.618  # of all pairs of label and angle, by which topics begin apart; spreads any number of them
)


@dataclass(frozen=True)
class Turn:
    """What a draft gets.

    Attributes:
        teacher: who writes it, by its place. earlier: drafts of the same label that were begun before.
    """

    label: str | None
    angle: str
    teacher: int
    earlier: int


class Turns:
    """Gives each draft its turn; the same drafts get the same ones.

    Args:
        labels: of the rows; empty where they have none. shares: of drafts, for each teacher.
    """

    def __init__(self, labels: Sequence[str], shares: Sequence[float]):
        self._labels: Sequence[str | None] = labels or (None,)
        self._shares = shares
        self._of_topic: Counter[int] = Counter()
        self._of_label: Counter[str | None] = Counter()
        self._asked: Counter[int] = Counter()  # drafts by teacher
        self._of_both: Counter[tuple[str | None, int]] = Counter()  # by label and teacher

    def next(self, topic: int) -> Turn:
        """The turn of a topic's next draft, by the topic's place in the plan."""
        label, angle = pair(topic, self._of_topic[topic], self._labels)
        teacher = min(range(len(self._shares)), key=lambda i: self._had(label, i))
        turn = Turn(label, angle, teacher, self._of_label[label])
        self._of_topic[topic] += 1
        self._of_label[label] += 1
        self._asked[teacher] += 1
        self._of_both[label, teacher] += 1
        return turn

    def _had(self, label: str | None, teacher: int) -> tuple[float, float]:
        """What a teacher would have of its share of a label, and of all."""
        share = self._shares[teacher]
        return (self._of_both[label, teacher] + 1) / share, (self._asked[teacher] + 1) / share


def pair(topic: int, draft: int, labels: Sequence[str | None]) -> tuple[str | None, str]:
    """The label and the angle of a topic's draft, both counted from 0.

    Every topic goes through all pairs of a label and an angle before one comes again, each label in
    turn, and begins at another pair than its neighbours.
    """
    count = len(labels) * len(ANGLES)
    stride = round(STRIDE * count)
    while gcd(stride, count) > 1:
        stride += 1
    at = (draft + stride * topic) % count
    # Label and angle repeat together after their least common multiple: then the angle moves on by one.
    angle = at + at // lcm(len(labels), len(ANGLES))
    return labels[at % len(labels)], ANGLES[angle % len(ANGLES)]
