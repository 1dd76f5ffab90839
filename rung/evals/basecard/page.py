"""A card as one page that needs no network."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from rung.errors import ConfigError
from rung.evals.basecard.plots import plots
from rung.evals.basecard.words import TITLES, says

SHOWN = {"reading": ("styles", "context"), "recall": ("recall",), "shots": ("shots",),
         "variety": ("variety",)}  # fmt: skip
NOTES = {
    "reading": "Passages in six styles. Bits per byte can be compared between tokenizers, perplexity "
    "cannot. Behind more context, the same tokens are predicted.",
    "recall": "Facts of one form hidden among unrelated sentences; asked for each, with the "
    "other facts' words as wrong choices.",
    "shots": "Naming the kind of a thing, scored as a choice; bars are 95% intervals.",
    "variety": "distinct-n: share of n-grams that differ. Self-BLEU: likeness of continuations to each "
    "other.",
}


def check_place(path: Path) -> None:
    """Make the page's folder, so that no measuring is lost on a place that cannot be written.

    Raises:
        ConfigError: when it cannot.
    """
    fault = "is a folder" if path.is_dir() else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            fault = os.strerror(errno.EACCES)
    except OSError as failed:
        fault = failed.strerror
    if fault:
        raise ConfigError(f"cannot write {path} ({fault}): say --out FILE")


def write_page(card: dict[str, Any], path: Path) -> None:
    """Write the page.

    Raises:
        ConfigError: when the file cannot be written.
    """
    check_place(path)
    page = render(card)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as fault:
        raise ConfigError(f"cannot write {path} ({fault.strerror}): say --out FILE") from None


def render(card: dict[str, Any]) -> str:
    """The page as text; `card` is what `study` gave."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    drawn = plots(card)
    parts = [
        {
            "name": name,
            "title": title,
            "rows": says(name, card[name]),
            "plots": [Markup(drawn[p]) for p in SHOWN.get(name, ()) if p in drawn],
            "note": NOTES.get(name, ""),
        }
        for name, title in TITLES.items()
    ]
    loader = PackageLoader("rung.evals.basecard", package_path="")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    return environment.get_template("card.html").render(card=card, parts=parts)
