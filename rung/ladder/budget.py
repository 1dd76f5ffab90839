"""Who gets how much of the time that is left."""

from __future__ import annotations

from collections.abc import Mapping


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
