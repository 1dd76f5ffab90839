"""Objectives that measure from a reference which the user chooses: what they share."""

from __future__ import annotations

import dataclasses

from rung.config import knob
from rung.objectives import base


@dataclasses.dataclass
class ReferenceKnobs:
    """The choice of the reference, beside an objective's own knobs."""

    reference: str = knob(
        "parent",
        "What replies are measured from: parent, which training starts from (a fresh adapter where "
        "there is none), or the bare base.",
        choices=("parent", "base"),
    )


class Referenced(base.Objective):
    """An objective whose `Config` is a `ReferenceKnobs`."""

    @property
    def reference(self):
        return "base" if self.config.reference == "base" else "start"
