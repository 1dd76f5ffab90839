"""Plain: the prompt as it stands."""

from __future__ import annotations

from rung.redteam.transforms import base


class Transform(base.Transform):
    summary = "the prompt as it stands"

    def turns(self, prompt):
        return (prompt,)
