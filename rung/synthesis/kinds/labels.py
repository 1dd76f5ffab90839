"""Labels: texts written for a given label, so that there are equally many of each."""

from __future__ import annotations

from typing import Any

from rung.synthesis.kinds import base
from rung.types import Message


class Kind(base.Kind):
    summary = "a text and its label"
    stages = (base.Stage(("text",), compared="text"),)
    labelled = True

    def messages(self, stage: int, description: str, draft: base.Draft) -> tuple[Message, ...]:
        shown = base.shown(
            asking("Sorts letters to a newspaper.", "traffic", "complaint"),
            {"text": "For three weeks the lights at the old bridge have been out, and nobody comes."},
        )
        asked = asking(description, draft.topic, draft.label or "")
        return (*shown, *base.user(base.with_context(asked, draft)))

    def row(self, draft: base.Draft) -> dict[str, Any]:
        return {"text": draft.fields["text"], "label": draft.label}


def asking(description: str, topic: str, label: str) -> str:
    """Word the question for a text that has a label."""
    return (
        f"Somebody does this: {description} Topic: {topic}. Write a text of the label '{label}', "
        "without naming the label."
    )
