"""Prompts alone: what people write to an assistant, for rollouts and for red-teaming."""

from __future__ import annotations

from typing import Any

from rung.synthesis.kinds import base
from rung.types import Message


class Kind(base.Kind):
    summary = "prompts without replies"
    stages = (base.Stage(("prompt",), compared="prompt"),)

    def messages(self, stage: int, description: str, draft: base.Draft) -> tuple[Message, ...]:
        return base.request_prompt(description, draft)

    def row(self, draft: base.Draft) -> dict[str, Any]:
        return {"prompt": draft.fields["prompt"]}
