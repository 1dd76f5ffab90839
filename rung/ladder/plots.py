"""The scorecard's plots as SVG that stands inside a page, in the page's own colours.

What is drawn in `INK` becomes the colour of the text around, so that a plot is readable on a light and
on a dark page. Nothing in the SVG points outside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rung.evals.drawing import INK, svg

TICKS = 4.5  # labels that fit side by side below the picture
WIN, REST, LINE = "#2e9e5b", "#4c78a8", "#d08a2e"


def pareto(
    points: Sequence[Mapping[str, Any]],
    metric: str,
    bar: float | None,
    front: Sequence[str],
    floor: float | None = None,
) -> str:
    """Quality with its interval against total cost.

    Args:
        points: each with key, cost (seconds), value, low, high, winner.
        front: keys that nothing beats in both. floor: the baseline's figure, drawn across.
    """

    def draw(axes: Any) -> None:
        for p in points:
            colour = WIN if p["winner"] else REST
            low, high = p["value"] - p["low"], p["high"] - p["value"]
            axes.errorbar(
                [p["cost"]], [p["value"]], yerr=[[max(0, low)], [max(0, high)]], fmt="o",
                color=colour, capsize=3, markersize=7 if p["winner"] else 5, linewidth=1,
            )  # fmt: skip
        line = sorted((p["cost"], p["value"]) for p in points if p["key"] in front)
        if len(line) > 1:
            axes.plot(*zip(*line, strict=True), color=LINE, linewidth=1, zorder=0)
        if floor is not None:
            axes.axhline(floor, color=INK, linewidth=0.8, linestyle=":", alpha=0.7, zorder=0)
            axes.annotate("baseline", (0.01, floor), xycoords=("axes fraction", "data"),
                          va="bottom", ha="left", fontsize=9)  # fmt: skip
        if bar is not None:
            axes.axhline(bar, color=INK, linewidth=1, linestyle="--")
            axes.annotate(f"bar {bar:g}", (0.99, bar), xycoords=("axes fraction", "data"),
                          va="bottom", ha="right", fontsize=9)  # fmt: skip
        if all(p["cost"] > 0 for p in points):
            axes.set_xscale("log")
            _readable_seconds(axes, [p["cost"] for p in points])
        axes.margins(x=0.06, y=0.06)
        _name_points(axes, points)
        axes.set_xlabel("total cost, all expected requests included")
        axes.set_ylabel(metric)

    return svg(draw, "pareto", (5.8, 4.2))


def _name_points(axes: Any, points: Sequence[Mapping[str, Any]]) -> None:
    """Names in a column at the right, apart from each other, each joined to its point."""
    low, high = axes.get_ylim()
    ranked = sorted(points, key=lambda p: p["value"])
    gap = 0.058  # of the height: a line of text
    wanted = [(p["value"] - low) / (high - low) for p in ranked]
    placed: list[float] = []
    for at in wanted:
        placed.append(max(at, placed[-1] + gap) if placed else max(at, 0.0))
    over = max(0.0, placed[-1] - 1.0)
    for i in range(len(placed) - 1, -1, -1):
        most = placed[i + 1] - gap if i + 1 < len(placed) else 1.0
        placed[i] = min(placed[i], most) if over else placed[i]
    for p, at in zip(ranked, placed, strict=True):
        axes.annotate(
            p["key"], (p["cost"], p["value"]), xytext=(1.04, at), textcoords="axes fraction",
            va="center", fontsize=9, color=WIN if p["winner"] else INK,
            fontweight="bold" if p["winner"] else "normal",
            arrowprops={"arrowstyle": "-", "color": INK, "alpha": 0.25, "linewidth": 0.6},
        )  # fmt: skip


def _readable_seconds(axes: Any, costs: Sequence[float]) -> None:
    from rung.ladder.scorecard import duration

    steps: list[float] = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18000,
                          36000, 72000, 180000, 360000, 720000]  # fmt: skip
    low, high = min(costs) / 1.3, max(costs) * 1.3
    ticks = [t for t in steps if low <= t <= high]
    apart = (math.log(high) - math.log(low)) / TICKS
    kept: list[float] = []
    for tick in ticks:
        if not kept or math.log(tick) - math.log(kept[-1]) >= apart:
            kept.append(tick)
    ticks = kept
    if len(ticks) < 2:
        ticks = sorted({round(min(costs), 1), round(max(costs), 1)})
    axes.set_xticks(ticks, [duration(t) for t in ticks])
    axes.minorticks_off()


def curves(lines: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Validation loss over the steps of each rung that was trained."""

    def draw(axes: Any) -> None:
        for name, points in lines.items():
            axes.plot([p[0] for p in points], [p[1] for p in points], marker="o", markersize=3,
                      linewidth=1.4, label=name)  # fmt: skip
        axes.set_xlabel("step")
        axes.set_ylabel("validation loss")
        axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return svg(draw, "curves", (5.8, 3.4))


def data_curve(points: Sequence[Mapping[str, Any]], metric: str) -> str:
    """The winner's figure with less data."""

    def draw(axes: Any) -> None:
        rows, values = [p["rows"] for p in points], [p["value"] for p in points]
        spread = [
            [max(0, p["value"] - p["low"]) for p in points],
            [max(0, p["high"] - p["value"]) for p in points],
        ]
        axes.errorbar(rows, values, yerr=spread, marker="o", color=WIN, capsize=3, linewidth=1.4)
        axes.set_xscale("log")
        axes.set_xticks(rows, [f"{r:,}" for r in rows])
        axes.minorticks_off()
        axes.set_xlabel("training rows")
        axes.set_ylabel(f"{metric} on validation")

    return svg(draw, "data", (5.4, 3.0))
