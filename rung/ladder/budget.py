"""Who gets how much of the time that is left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rung.store.climbs import RungRecord

LAST = 0.15  # of the budget that is kept for measuring on test rows and for the curve


def shares(wanted: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Time by key: what each wants where that is little, and even parts of the rest for the others.

    Where there is more than all want together, what is over is shared evenly.

    Args:
        wanted: seconds that each would like to have.
    """
    found: dict[str, float] = {}
    left = max(0.0, seconds)
    ranked = sorted(wanted, key=lambda key: (wanted[key], key))
    for place, key in enumerate(ranked):
        found[key] = min(wanted[key], left / (len(ranked) - place))
        left -= found[key]
    return {key: value + left / len(ranked) for key, value in found.items()}


def short_of_time(records: Sequence[RungRecord], spent: float, budget: str) -> str | None:
    """A sentence about trainings that ended for want of time, and the budget that would do; or None.

    Args:
        spent: seconds of the climb. budget: as the user gave it.
    """
    cut = [r for r in records if r.metrics.get("cut_from")]
    if not cut:
        return None
    untried = [r for r in records if r.status == "cancelled" and r.predicted]  # for want of time
    missing = sum(max(0.0, r.predicted["wall"] - r.cost.get("wall", 0.0)) for r in [*cut, *untried])
    minutes = math.ceil((spent + missing) / (1 - LAST) / 60)
    names = ", ".join(r.key for r in cut)
    return f"--budget {budget} cut the training of {names} short; --budget {minutes}m would not."
