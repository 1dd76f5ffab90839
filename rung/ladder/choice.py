"""The choice of a climb's winner, by what was measured on validation alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rung.evals.compare import compare
from rung.evals.measure import Measured
from rung.ladder.bar import Bar
from rung.store.climbs import RungRecord


@dataclass(frozen=True)
class Standing:
    """A rung that was measured on validation."""

    record: RungRecord
    measured: Measured

    @property
    def key(self) -> str:
        return self.record.key

    @property
    def total(self) -> float:
        return self.record.cost.get("total_seconds", 0.0)

    @property
    def of(self) -> int:
        """Validation rows that there are; it may have been measured on fewer."""
        return self.record.metrics.get("held_of") or self.measured.n

    def clears(self, bar: Bar) -> bool:
        """Whether it clears a bar: by its figure on all validation rows, on fewer by the worse end of
        the interval, since of several figures of 24 rows one is high by chance."""
        seen = self.measured
        if seen.n >= self.of:
            return bar.cleared(seen.value)
        # Rows that are all alike, at no end, have a bootstrap without width: it says nothing of others.
        return seen.low < seen.high and bar.cleared(seen.worst)

    @property
    def only(self) -> str | None:
        """The one answer that it gives to every row, if it does."""
        return self.record.metrics.get("only")


@dataclass(frozen=True)
class Choice:
    """Who wins by validation alone, and who is next."""

    winner: Standing | None = None
    second: Standing | None = None
    cleared: bool = False
    standings: Sequence[Standing] = ()


def standings(records: Sequence[RungRecord]) -> list[Standing]:
    """The rungs with a figure, in their order."""
    return [
        Standing(r, Measured.of(r.metrics["validation"], r.items["validation"]))
        for r in records
        if r.status != "failed" and r.method and "validation" in r.metrics and "validation" in r.items
    ]


def beats(one: Standing, other: Standing) -> bool:
    """Whether one is better than the other on the rows that both were asked, beyond chance."""
    count = min(one.measured.n, other.measured.n)
    seen = compare(other.measured.first(count), one.measured.first(count))
    better = seen.difference < 0 if one.measured.lower else seen.difference > 0
    return seen.certain and better


def choose(
    found: Sequence[Standing], bar: Bar | None, baseline: str | None = None, tie: float | None = None
) -> Choice:
    """Winner and runner-up.

    With a bar the winner is the cheapest rung that clears it, see `Standing.clears`. Without, or where
    none does, it is one that no other beats beyond chance: the best, or a cheaper one whose figure is
    within `tie` of it. Where rungs were measured on unlike numbers of rows the best is told by the end
    of the interval that is the worse one: of a dozen figures of 24 rows one is high by chance. A rung
    that gives one answer to every row wins only where nothing else was measured.

    Args:
        tie: how far apart figures may be that are called alike; None: a hundredth of the best.
    """
    if not found:
        return Choice()
    learned = [s for s in found if s.only is None or s.key == baseline] or list(found)
    ranked = sorted(learned, key=lambda s: (_sign(s) * -s.measured.value, s.total))
    clearing = [s for s in learned if bar is not None and s.clears(bar)]
    if clearing:
        winner = min(clearing, key=lambda s: (s.total, s.key))
    else:
        unbeaten = [s for s in ranked if not any(beats(o, s) for o in ranked if o is not s)]
        best = _best(unbeaten or ranked)
        near = tie if tie is not None else 0.01 * abs(best.measured.value)
        alike = [
            s for s in unbeaten or ranked[:1]
            if abs(s.measured.value - best.measured.value) <= near + 1e-12
        ]  # fmt: skip
        winner = min(alike, key=lambda s: (s.total, s.key))
    others = sorted(found, key=lambda s: (_sign(s) * -s.measured.value, s.total))
    rest = [s for s in (*ranked, *others) if s is not winner]
    return Choice(winner, rest[0] if rest else None, bool(clearing), tuple(found))


def _best(ranked: Sequence[Standing]) -> Standing:
    """The best of some, the best figure first; the surest where they are of unlike numbers of rows."""
    if len({s.measured.n for s in ranked}) == 1:
        return ranked[0]
    return max(ranked, key=lambda s: _sign(s) * s.measured.worst)


def _sign(standing: Standing) -> int:
    return -1 if standing.measured.lower else 1
