"""Replies: what somebody writes to an assistant, and what it answers."""

from __future__ import annotations

from typing import Any

from rung.synthesis.kinds import base
from rung.types import Message


class Kind(base.Kind):
    summary = "a prompt and its reply"
    stages = (
        base.Stage(("prompt",), compared="prompt"),
        base.Stage(("reply",), json=False, compared="reply"),
    )

    def messages(self, stage: int, description: str, draft: base.Draft) -> tuple[Message, ...]:
        if stage == 0:
            return base.request_prompt(description, draft)
        return ({"role": "system", "content": description}, *base.user(draft.fields["prompt"]))

    def row(self, draft: base.Draft) -> dict[str, Any]:
        return {
            "messages": [
                {"role": "user", "content": draft.fields["prompt"]},
                {"role": "assistant", "content": draft.fields["reply"]},
            ]
        }
