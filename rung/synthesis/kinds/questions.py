"""Questions of documents: asked and answered from one passage, which the row names."""

from __future__ import annotations

from typing import Any

from rung.synthesis import duplicates
from rung.synthesis.kinds import base
from rung.types import Message

MIN_LETTERS = 5  # of a word of the question that the passage must hold; shorter ones say little


class Kind(base.Kind):
    summary = "questions of documents with their answers and passages"
    stages = (base.Stage(("question", "answer"), compared="question"),)
    from_documents = True

    def messages(self, stage: int, description: str, draft: base.Draft) -> tuple[Message, ...]:
        shown = base.shown(
            asking("The mill at Orrest was built in 1873 by Anna Holm, who ground barley there.", ""),
            {"question": "Who built the mill at Orrest?", "answer": "Anna Holm"},
        )
        asked = asking(draft.passage, f" They are for this: {description}")
        return (*shown, *base.user(base.with_context(asked, draft)))

    def refused(self, draft: base.Draft) -> str | None:
        passage = set(duplicates.plain(draft.passage).split())
        asked = {w for w in duplicates.plain(draft.fields["question"]).split() if len(w) >= MIN_LETTERS}
        if not asked & passage:
            return "not about the passage"
        answer = set(duplicates.plain(draft.fields["answer"]).split())
        return None if answer & passage else "answer not in the passage"

    def row(self, draft: base.Draft) -> dict[str, Any]:
        return {name: draft.fields[name] for name in ("question", "answer")}


def asking(passage: str, purpose: str) -> str:
    """Word the question for a question."""
    return (
        f"{passage}\n\nWrite a question that this passage answers, in the passage's own words, and its "
        f"answer.{purpose}"
    )
