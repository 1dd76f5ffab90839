"""Pairs: a prompt, the reply that is wanted, and one that leaves out what the description asks for."""

from __future__ import annotations

from typing import Any

from rung.synthesis import duplicates
from rung.synthesis.kinds import base
from rung.types import Message

CARELESS = "Answer with one careless, unhelpful sentence that ignores what the person needs."


class Kind(base.Kind):
    summary = "a prompt with a better and a worse reply"
    stages = (
        base.Stage(("prompt",), compared="prompt"),
        base.Stage(("chosen",), json=False, compared="chosen"),
        base.Stage(("rejected",), json=False),
    )

    def messages(self, stage: int, description: str, draft: base.Draft) -> tuple[Message, ...]:
        if stage == 0:
            return base.request_prompt(description, draft)
        system = description if stage == 1 else CARELESS
        return ({"role": "system", "content": system}, *base.user(draft.fields["prompt"]))

    def refused(self, draft: base.Draft) -> str | None:
        chosen, rejected = draft.fields["chosen"], draft.fields["rejected"]
        same = duplicates.plain(chosen) == duplicates.plain(rejected)
        return "both replies alike" if same else None

    def row(self, draft: base.Draft) -> dict[str, Any]:
        return {name: draft.fields[name] for name in ("prompt", "chosen", "rejected")}
