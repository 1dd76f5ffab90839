"""Plots as SVG that stands inside a page, in the page's own colours, pointing to nothing outside."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

INK = "#010203"  # becomes the colour of the text around
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 11, "text.color": INK,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "font.family": "sans-serif",
    "legend.labelcolor": INK, "legend.frameon": False, "savefig.transparent": True,
}  # fmt: skip


def svg(draw: Callable[[Any], None], name: str, size: tuple[float, float]) -> str:
    """What `draw` puts on a pair of axes, as an SVG element.

    Args:
        name: unique on the page. size: width and height in inches at the font size of `STYLE`.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return _inline(out.getvalue(), name)


def _inline(text: str, name: str) -> str:
    """The element alone: no headers with addresses, names of its own, a size that the page decides."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    opening, closing, rest = text.partition(">")
    opening = re.sub(r'\s(width|height)="[^"]*"', "", opening) + ' role="img"'
    text = (opening + closing + rest).replace("xlink:href", "href").replace(INK, "currentColor")
    for mark in ('id="', 'href="#', "url(#"):
        text = text.replace(mark, f"{mark}{name}-")
    return text
