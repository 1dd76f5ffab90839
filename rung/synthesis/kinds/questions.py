"""Questions of documents: asked and answered from one passage, which the row names.

The teacher sees a few sentences of the passage behind the document's name: of a whole passage small
models ask what any other passage answers as well.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from rung.data.retrieval.passages import SENTENCE
from rung.synthesis import duplicates
from rung.synthesis.kinds import base
from rung.types import Message

MIN_LETTERS = 5  # of a word that counts as held by the passage; shorter ones say little
MIN_SHARE = 0.5  # of such words of a question, and of all words of an answer, that the passage holds
FOCUS_WORDS, MIN_WORDS = 25, 4  # of the sentences that are asked about at least, and of each of them


class Kind(base.Kind):
    summary = "questions of documents with their answers and passages"
    stages = (base.Stage(("question", "answer"), compared="question"),)
    from_documents = True

    def messages(self, stage: int, description: str, draft: base.Draft) -> tuple[Message, ...]:
        shown = base.shown(
            asking(
                "orrest: The mill at Orrest was built in 1873 by Anna Holm, who ground barley there.",
                "",
            ),
            {"question": "Who built the mill at Orrest?", "answer": "Anna Holm"},
        )
        title = PurePosixPath(draft.document or "").stem
        focus = focused(draft.passage, draft.index)
        asked = asking(f"{title}: {focus}", f" They are for this: {description}")
        return (*shown, *base.user(base.with_context(asked, draft)))

    def refused(self, draft: base.Draft) -> str | None:
        passage = set(duplicates.plain(f"{draft.document} {draft.passage}").split())
        asked = {w for w in duplicates.plain(draft.fields["question"]).split() if len(w) >= MIN_LETTERS}
        if not asked or len(asked & passage) < MIN_SHARE * len(asked):
            return "not about the passage"
        answer = set(duplicates.plain(draft.fields["answer"]).split())
        if not answer or len(answer & passage) < MIN_SHARE * len(answer):
            return "answer not in the passage"
        return None

    def row(self, draft: base.Draft) -> dict[str, Any]:
        return {name: draft.fields[name] for name in ("question", "answer")}


def focused(passage: str, number: int) -> str:
    """Choose neighbouring sentences of a passage, others for each number; all of a short one."""
    sentences = [" ".join(one.split()) for one in SENTENCE.split(passage)]
    sentences = [one for one in sentences if len(one.split()) >= MIN_WORDS]
    if not sentences:
        return " ".join(passage.split())
    # By a number prime to most counts, so that drafts of one document begin in different places.
    chosen: list[str] = []
    for sentence in sentences[number * 7 % len(sentences) :]:
        chosen.append(sentence)
        if len(" ".join(chosen).split()) >= FOCUS_WORDS:
            break
    return " ".join(chosen)


def asking(passage: str, purpose: str) -> str:
    """Word the question for a question."""
    return (
        f"{passage}\n\nWrite a question that this passage answers, in the passage's own words, and its "
        f"answer.{purpose}"
    )
