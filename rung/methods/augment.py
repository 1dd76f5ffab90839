"""The knob of methods that train on pixels: which changes of pictures a step of training sees."""

from __future__ import annotations

from typing import Any

from rung.config import knob

KINDS = ("none", "flip", "crop")


def augment_knob(*default: str) -> Any:
    """A field `augment: list[str]` of a method's knobs; none of them is set by default."""
    return knob(
        list(default),
        "Changes of pictures in training: flip (half are mirrored), crop (a part is enlarged), none.",
        choices=KINDS,
        names=True,
        reads="pictures",
    )
