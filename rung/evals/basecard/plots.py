"""The plots of a card."""

from __future__ import annotations

from typing import Any

from rung.evals.drawing import INK, svg

BLUE, ORANGE, GREEN = "#4c78a8", "#d08a2e", "#2e9e5b"
SIZE = (4.6, 2.9)


def plots(card: dict[str, Any]) -> dict[str, str]:
    """SVG elements by name; a part without figures has none."""
    drawn = {"styles": _styles(card["reading"])}
    if len(card["reading"]["by_context"]) > 1:
        drawn["context"] = _context(card["reading"])
    if card["recall"]["cells"]:
        drawn["recall"] = _recall(card["recall"])
    if card["shots"]["counts"]:
        drawn["shots"] = _shots(card["shots"])
    drawn["variety"] = _variety(card["variety"])
    return drawn


def _styles(figures: dict[str, Any]) -> str:
    def draw(axes: Any) -> None:
        rows = [(row["style"], row["bits_per_byte"]) for row in figures["styles"][::-1]]
        rows.insert(0, ("all", figures["bits_per_byte"]))
        colours = [GREEN, *[BLUE] * (len(rows) - 1)]
        axes.barh([name for name, _ in rows], [value for _, value in rows], color=colours, height=0.6)
        for i, (_, value) in enumerate(rows):
            axes.annotate(f" {value:.2f}", (value, i), va="center", fontsize=9)
        axes.margins(x=0.14)
        axes.set_xlabel("bits per byte")

    return svg(draw, "styles", SIZE)


def _context(figures: dict[str, Any]) -> str:
    def draw(axes: Any) -> None:
        rows = figures["by_context"]
        axes.plot([r["context"] for r in rows], [r["perplexity"] for r in rows], marker="o", color=BLUE)
        _powers(axes, [r["context"] for r in rows])
        for r in rows:
            axes.annotate(
                f"{r['perplexity']:.1f}", (r["context"], r["perplexity"]), xytext=(0, 6),
                textcoords="offset points", ha="center", fontsize=9,
            )  # fmt: skip
        axes.margins(x=0.1, y=0.2)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("tokens read before")
        axes.set_ylabel("perplexity")

    return svg(draw, "context", SIZE)


def _recall(figures: dict[str, Any]) -> str:
    def draw(axes: Any) -> None:
        cells = {(c["depth"], c["length"]): c["found"] for c in figures["cells"]}
        depths, lengths = sorted({d for d, _ in cells}), sorted({n for _, n in cells})
        table = [[cells[d, n] for n in lengths] for d in depths]
        axes.imshow(table, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto", alpha=0.65)
        for i, row in enumerate(table):
            for j, value in enumerate(row):
                axes.annotate(f"{value:.0%}", (j, i), ha="center", va="center", color="#101418")
        axes.set_xticks(range(len(lengths)), [f"{n:,}" for n in lengths])
        axes.set_yticks(range(len(depths)), [f"{d:.0%}" for d in depths])
        axes.set_xlabel(f"tokens of context (guessing: {figures['chance']:.0%})")
        axes.set_ylabel("depth of the fact")

    return svg(draw, "recall", SIZE)


def _shots(figures: dict[str, Any]) -> str:
    def draw(axes: Any) -> None:
        rows = figures["counts"]
        values = [r["accuracy"] for r in rows]
        spread = [
            [max(0.0, r["accuracy"] - r["low"]) for r in rows],
            [max(0.0, r["high"] - r["accuracy"]) for r in rows],
        ]
        at = range(len(rows))
        axes.errorbar(at, values, yerr=spread, marker="o", color=GREEN, capsize=3)
        axes.axhline(figures["chance"], color=INK, linewidth=1, linestyle="--")
        axes.annotate("guessing", (0.99, figures["chance"]), xycoords=("axes fraction", "data"),
                      xytext=(0, 3), textcoords="offset points", ha="right", va="bottom",
                      fontsize=9)  # fmt: skip
        axes.set_xticks(at, [str(r["shots"]) for r in rows])
        axes.set_ylim(0, 1.03)
        axes.set_xlabel("examples in the prompt")
        axes.set_ylabel("accuracy")

    return svg(draw, "shots", SIZE)


def _variety(figures: dict[str, Any]) -> str:
    def draw(axes: Any) -> None:
        rows = figures["temperatures"]
        at = [r["temperature"] for r in rows]
        lines = (
            ("distinct_2", "distinct-2 (more varied: up)", BLUE),
            ("distinct_1", "distinct-1", GREEN),
            ("self_bleu", "self-BLEU (more varied: down)", ORANGE),
        )
        for key, label, colour in lines:
            axes.plot(at, [r[key] for r in rows], marker="o", color=colour, label=label)
        axes.set_xticks(at, [f"{t:g}" for t in at])
        axes.set_ylim(0, 1.03)
        axes.set_xlabel("temperature")
        axes.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=2)

    return svg(draw, "variety", (SIZE[0], SIZE[1] + 0.4))


def _powers(axes: Any, ticks: list[int]) -> None:
    """A logarithmic axis with plain numbers."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
    axes.minorticks_off()
