"""How sure a figure is: Wilson's interval, the bootstrap, and what so many items can show."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

RESAMPLES = 2000
SEED = 20_26
LEVEL = 0.95
Z = 1.959963984540054  # of the normal distribution at LEVEL
CELLS = 1 << 24  # entries of the matrix of weights that are held at once
KEPT_CELLS = 1 << 20  # entries of a matrix of weights that is kept for the next figure, 8 MiB


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95% interval of a proportion (Wilson 1927); holds near 0 and 1 too, and for few items.

    Raises:
        ValueError: for no items.
    """
    if n < 1:
        raise ValueError("an interval needs at least one item")
    p, z2 = successes / n, Z * Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # Where all are right or wrong the bound is p itself, which rounding must not miss.
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))


def bootstrap(
    statistics: np.ndarray, finish: Callable[[np.ndarray], np.ndarray], resamples: int = RESAMPLES
) -> np.ndarray:
    """Figures of data sets drawn with replacement from the items, always the same ones.

    Args:
        statistics: (n, k), what each item adds up to.
        finish: sums (..., k) -> figures (...).

    Returns:
        (resamples,).
    """
    n = len(statistics)
    if n * resamples <= KEPT_CELLS:
        return finish(_weights(n, resamples) @ statistics)
    generator = np.random.default_rng(SEED)
    found = []
    for low in range(0, resamples, step := max(1, CELLS // n)):
        rows = min(step, resamples - low)
        found.append(finish(_draw(generator, n, rows) @ statistics))
    return np.concatenate(found)


def _draw(generator: np.random.Generator, n: int, rows: int) -> np.ndarray:
    """How often each of n items is drawn, (rows, n)."""
    return generator.multinomial(n, np.full(n, 1 / n), size=rows).astype(np.float64)


@lru_cache(maxsize=4)
def _weights(n: int, resamples: int) -> np.ndarray:
    """Every draw of few items, kept: models are held against each other on the same ones."""
    weights = _draw(np.random.default_rng(SEED), n, resamples)
    weights.flags.writeable = False
    return weights


def percentile(figures: np.ndarray) -> tuple[float, float]:
    """The middle 95% of figures."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(figures, [tail, 100 - tail])
    return float(low), float(high)


def resampled(
    statistics: np.ndarray,
    finish: Callable[[np.ndarray], np.ndarray],
    n: int,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[float, float]:
    """The 95% interval of a figure by bootstrap.

    Where all items are at the same end of the bounds every resample is too, which says nothing of how
    sure that is: the interval is then Wilson's of as many proportions.

    Args:
        statistics, finish: as of `bootstrap`. n: items that the figure is of.
        bounds: the least and the greatest figure there can be.
    """
    drawn = bootstrap(statistics, finish)
    known = drawn[~np.isnan(drawn)]  # resamples may lack every item that a figure is of
    low, high = percentile(known if len(known) else drawn)
    least, width = bounds[0], bounds[1] - bounds[0]
    for end in (0, 1) if math.isfinite(width) else ():
        if max(abs(low - bounds[end]), abs(high - bounds[end])) <= 1e-9 * width:
            low, high = (least + width * share for share in wilson(end * max(n, 1), max(n, 1)))
            break
    return low, high


def detectable(n: int, p: float = 0.5) -> float:
    """The smallest difference in a proportion near `p` that n items can show.

    At 95% certainty and with a chance of 80% to see it, for two models measured on the same items that
    agree as if by chance; models that agree more often can be told apart by less.

    Raises:
        ValueError: for no items, or p outside 0 to 1.
    """
    if n < 1 or not 0 <= p <= 1:
        raise ValueError("needs at least one item and a proportion")
    spread = max(p * (1 - p), 1 / (4 * n))  # at the ends the normal approximation knows no spread
    return min(1.0, (Z + 0.8416212335729143) * math.sqrt(2 * spread / n))
