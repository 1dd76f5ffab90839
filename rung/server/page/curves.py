"""Curves of a tuning: its loss, and beside it what else its objective reports (rewards, divergence)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nicegui import ui

# By the heading of a chart, how figures that belong on it are called.
HEADINGS = {"Loss": "loss", "Reward": "reward", "KL": "kl", "Answer length": "answer_tokens"}
PARTS = {"train": "training", "valid": "validation"}
COLOURS = ("#3f83c9", "#d9822b", "#4a9c5d", "#a05fb4", "#b9444f", "#7a7f3c")
Points = list[list[float]]  # of (step, value)


def curves(said: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Points]]:
    """The curves of each chart by name, from what a job's events hold; empty charts are left out.

    Args:
        said: in the order of steps: `step`, and figures such as `train_loss` or `valid_reward`.
    """
    found: dict[str, dict[str, Points]] = {}
    for heading, word in HEADINGS.items():
        for entry in said:
            for name, value in entry.items():
                part, _, figure = name.partition("_")
                if part not in PARTS or not isinstance(value, (int, float)):
                    continue
                if figure != word and not figure.startswith(f"{word}_"):
                    continue
                rest = figure.removeprefix(word).strip("_").replace("_", " ")
                curve = " ".join(filter(None, (PARTS[part], rest)))
                found.setdefault(heading, {}).setdefault(curve, []).append([entry["step"], value])
    return found


@dataclass
class Charts:
    """The charts of one tuning at a time; those without a curve are hidden."""

    _shown: dict[str, ui.echart] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with ui.element("div").classes("curves"):
            for heading in HEADINGS:
                chart = ui.echart(_options(heading, {})).classes("chart")
                self._shown[heading] = chart.props(f'role=img aria-label="{heading}"')
        self.draw([])

    def draw(self, said: Sequence[Mapping[str, Any]]) -> None:
        """Show what has been said so far; each chart's label tells its last figure to who hears it."""
        found = curves(said)
        for heading, chart in self._shown.items():
            own = found.get(heading, {})
            chart.options.clear()
            chart.options.update(_options(heading, own))
            chart.update()
            if own:
                step, value = next(iter(own.values()))[-1]
                chart.props["aria-label"] = f"{heading}: {value:.4g} after step {step}"
            chart.set_visibility(bool(own))


def _options(heading: str, drawn: Mapping[str, Points]) -> dict[str, Any]:
    """Options of ECharts; colours that stand out on light and on dark."""
    series = [
        {
            "type": "line", "name": name, "data": points, "animation": False,
            "showSymbol": name.startswith(PARTS["valid"]) or len(points) < 2,
            "itemStyle": {"color": colour},
        }
        for (name, points), colour in zip(drawn.items(), COLOURS * 4, strict=False)
    ]  # fmt: skip
    grey = {"color": "#808a94"}
    axis = {"axisLabel": grey, "nameTextStyle": grey, "splitLine": {"lineStyle": {"opacity": 0.25}}}
    return {
        "grid": {"left": 50, "right": 16, "top": 34, "bottom": 40},
        "legend": {"textStyle": grey, "top": 4, "type": "scroll"},
        "tooltip": {"trigger": "axis"},
        "xAxis": {"type": "value", "name": "step", "nameLocation": "middle", "nameGap": 24, **axis},
        "yAxis": {"type": "value", "name": heading.lower(), "scale": True, **axis},
        "series": series,
    }
