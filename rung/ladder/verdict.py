"""What a climb may say in the end, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rung.evals.compare import Comparison, compare
from rung.evals.intervals import detectable
from rung.evals.measure import Measured
from rung.ladder.bar import Bar
from rung.ladder.kept import measured_of, short_figure
from rung.store.climbs import RungRecord
from rung.types import Task


@dataclass(frozen=True)
class Standing:
    """A rung that was measured on validation."""

    record: RungRecord
    measured: Measured

    @property
    def total(self) -> float:
        return self.record.cost.get("total_seconds", 0.0)


def standings(records: Sequence[RungRecord]) -> list[Standing]:
    """The rungs with a figure, in their order."""
    return [
        Standing(r, measured_of(r.metrics["validation"], r.items["validation"]))
        for r in records
        if r.status == "succeeded" and "validation" in r.metrics and "validation" in r.items
    ]


def choose(
    found: Sequence[Standing], bar: Bar | None, lower: bool
) -> tuple[Standing | None, Standing | None]:
    """(winner, runner-up), by validation alone.

    With a bar the winner is the cheapest rung that clears it. Without, or where none does, it is the
    cheapest of those that validation cannot tell from the best. The runner-up is the best of the rest.
    """
    if not found:
        return None, None
    sign = -1 if lower else 1
    ranked = sorted(found, key=lambda s: (-sign * s.measured.value, s.total))
    clearing = [s for s in found if bar is not None and bar.cleared(s.measured.value)]
    if clearing:
        winner = min(clearing, key=lambda s: s.total)
    elif bar is not None:
        winner = ranked[0]
    else:
        best = ranked[0].measured
        alike = [s for s in ranked if s is ranked[0] or not compare(best, s.measured).certain]
        winner = min(alike, key=lambda s: s.total)
    rest = [s for s in ranked if s is not winner]
    return winner, rest[0] if rest else None


def says(bar: Bar | None, winner: Standing, test: Measured, against: dict[str, Comparison]) -> str:
    """The verdict in a few sentences.

    Args:
        test: of the winner. against: by name, what the winner has over that model on the test rows.
    """
    shown = f"{test.metric} {test.value:.3f} [{test.low:.3f}, {test.high:.3f}] on {test.n} test rows"
    lines = [f"{winner.record.key}: {shown}."]
    if bar is not None:
        if not bar.cleared(winner.measured.value):
            lines.append(f"No rung clears {bar} on validation; this one comes closest.")
        lines.append(_of_bar(bar, test))
    lines += [f"Beside {name}: {c.says}." for name, c in against.items()]
    return " ".join(lines)


def _of_bar(bar: Bar, test: Measured) -> str:
    worst, best = (test.high, test.low) if bar.lower else (test.low, test.high)
    if bar.cleared(worst):
        return f"It clears {bar}: all of the 95% interval does."
    if bar.cleared(test.value):
        return (
            f"It clears {bar} as measured, but the bar lies within the 95% interval: so many rows "
            "cannot rule out that it is missed."
        )
    if bar.cleared(best):
        return f"It misses {bar} on the test rows, though within the 95% interval: do not count on it."
    return f"It does not clear {bar}: all of the 95% interval lies on the wrong side."


def resolution(task: Task, bar: Bar | None, n: int, values: str = "test") -> str | None:
    """What rows to judge by are too few to show, said before the climb; None where they are enough."""
    if task.metric not in ("accuracy", "exact_match") or n < 1:
        return None
    near = bar.value if bar else 0.8
    least = detectable(n, near)
    if least < 0.02:
        return None
    other = max(0.0, near - least)
    return (
        f"the {values} part has {n} rows: it cannot tell {task.metric} {near:.2f} from anything above "
        f"{other:.2f} with certainty; more rows, or a larger --{values}, would"
    )


def plain(comparison: Comparison) -> dict[str, Any]:
    """A comparison as plain data."""
    return {
        "difference": comparison.difference, "low": comparison.low, "high": comparison.high,
        "p": comparison.p, "n": comparison.n, "says": comparison.says,
    }  # fmt: skip


__all__ = ["Standing", "choose", "plain", "resolution", "says", "short_figure", "standings"]
