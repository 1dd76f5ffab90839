"""A plot of curves in a terminal: braille dots, two across and four down in every cell."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

Points = Sequence[tuple[float, float]]

# Bits of a braille cell from its upper left dot, by row and column (Unicode, U+2800).
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
HEIGHT = 8  # cells
WIDTH = 60  # cells, at most
LABEL = 11  # characters of a figure at the left, such as -1.175e-310


def loss_of(run: str) -> dict[str, Points]:
    """Read the curves of a run from its log: training and validation loss by step.

    A run that has no log, or none with a loss, gives nothing.
    """
    from rung import home

    path = home.folder("runs") / run / "log.jsonl"
    found: dict[str, list[tuple[float, float]]] = {"training": [], "validation": []}
    for entry in _entries(path):
        for name, key in (("training", "loss"), ("validation", "validation_loss")):
            value = entry.get(key)
            if isinstance(value, (int, float)) and math.isfinite(value):
                found[name].append((entry["step"], value))
    return {name: points for name, points in found.items() if len(points) > 1}


def _entries(path: Path) -> list[dict]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:  # the run's folder was cleared away; the model remains
        return []
    found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # cut off by a kill
            continue
    return [entry for entry in found if "step" in entry]


def draw(curves: Mapping[str, Points], width: int = WIDTH, height: int = HEIGHT) -> list[str]:
    """Draw curves as lines of text: figures at the left, steps below, and what is which.

    Args:
        curves: name -> (x, y) in the order of x; the second and later are drawn as single dots.
        width: characters of a line, at least 20. height: lines of the plot itself, at least 2.
    """
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return []
    across = max(8, min(WIDTH, width - LABEL - 2))
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    grid = [[0] * across for _ in range(height)]

    def dot(x: float, y: float) -> tuple[int, int]:
        column = round((x - left) / ((right - left) or 1) * (2 * across - 1))
        return column, round((high - y) / ((high - low) or 1) * (4 * height - 1))

    for number, curve in enumerate(curves.values()):
        dots = [dot(x, y) for x, y in curve]
        for column, line in dots if number else _joined(dots):
            grid[line // 4][column // 2] |= DOTS[line % 4][column % 2]
    rows = ["".join(chr(0x2800 + cell) for cell in row) for row in grid]
    labels = {0: high, height - 1: low}
    drawn = [
        f"{f'{labels[n]:.4g}' if n in labels else '':>{LABEL}} │{row}" for n, row in enumerate(rows)
    ]
    ends = f"{left:g}", f"step {right:g}"
    drawn.append(" " * (LABEL + 2) + ends[0] + " " * (across - len(ends[0] + ends[1])) + ends[1])
    return drawn + [" " * (LABEL + 2) + _last(curves)]


def _joined(dots: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Dots with those between neighbours filled in, so that a steep fall is one line."""
    found = list(dots[:1])
    for (x, y), (to_x, to_y) in zip(dots, dots[1:], strict=False):
        count = max(abs(to_x - x), abs(to_y - y), 1)
        found += [
            (x + round((to_x - x) * n / count), y + round((to_y - y) * n / count))
            for n in range(1, count + 1)
        ]
    return found


def _last(curves: Mapping[str, Points]) -> str:
    ends = {name: (curve[0][1], curve[-1][1]) for name, curve in curves.items()}
    return ", ".join(f"{name} {first:.3f} -> {last:.3f}" for name, (first, last) in ends.items())
