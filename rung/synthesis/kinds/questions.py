"""Questions of documents: asked and answered from one passage, which the row names.

The teacher sees a few sentences of the passage behind the document's name, and nothing else that it
could ask about: of a whole passage small models ask what any other passage answers as well, and where
its purpose stands beside it they ask about that. Where its answer is not in the passage, the sentence
nearest to the question is the answer.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from rung.data.retrieval.passages import SENTENCE
from rung.synthesis import duplicates
from rung.synthesis.checks import unfinished
from rung.synthesis.kinds import base
from rung.types import Message

MIN_LETTERS = 5  # of a word that counts as held by the passage; shorter ones say little
MIN_SHARE = 0.5  # of such words of a question, and of all words of an answer, that the passage holds
FOCUS_WORDS, MIN_WORDS = 25, 4  # of the sentences that are asked about at least, and of each of them
SHOWN = (
    (
        "orrest: The mill at Orrest was built in 1873 by Anna Holm, who ground barley there.",
        {"question": "Who built the mill at Orrest?", "answer": "Anna Holm"},
    ),
    (
        "pump-guide: Close the red valve before the filter of the pump is cleaned, since water would "
        "flow back otherwise.",
        {
            "question": "Why is the red valve closed before the filter of the pump is cleaned?",
            "answer": "Water would flow back otherwise.",
        },
    ),
)


class Kind(base.Kind):
    summary = "questions of documents with their answers and passages"
    stages = (base.Stage(("question", "answer"), compared="question"),)
    from_documents = True

    def messages(self, stage: int, description: str, draft: base.Draft) -> tuple[Message, ...]:
        purpose: Message = {
            "role": "system",
            "content": f"You write questions about documents. They are for this: {description}",
        }
        shown = [m for passage, fields in SHOWN for m in base.shown(asking(passage), fields)]
        title = PurePosixPath(draft.document or "").stem
        asked = asking(f"{title}: {' '.join(focused(draft.passage, draft.earlier))}")
        # The rows of the user's alone: angles, and what was written before, lead away from the passage.
        plain = replace(draft, angle="", written=())
        return (purpose, *shown, *base.user(base.with_context(asked, plain)))

    def kept(self, draft: base.Draft, name: str, text: str) -> str:
        if name != "answer" or (held(text, draft) and not unfinished(text, base.MAX_CHARACTERS)):
            return text
        question = set(words(draft.fields["question"]))
        sentences = focused(draft.passage, draft.earlier)
        return max(sentences, key=lambda one: len(question & set(words(one))))

    def refused(self, draft: base.Draft) -> str | None:
        passage = set(words(f"{draft.document} {draft.passage}"))
        asked = {w for w in words(draft.fields["question"]) if len(w) >= MIN_LETTERS}
        if not asked or len(asked & passage) < MIN_SHARE * len(asked):
            return "not about the passage"
        return None if held(draft.fields["answer"], draft) else "answer not in the passage"

    def row(self, draft: base.Draft) -> dict[str, Any]:
        return {name: draft.fields[name] for name in ("question", "answer")}


def words(text: str) -> list[str]:
    """The words of a text without case and punctuation."""
    return duplicates.plain(text).split()


def held(answer: str, draft: base.Draft) -> bool:
    """Whether the passage holds enough words of an answer."""
    found, passage = set(words(answer)), set(words(f"{draft.document} {draft.passage}"))
    return bool(found) and len(found & passage) >= MIN_SHARE * len(found)


def focused(passage: str, number: int) -> list[str]:
    """Choose neighbouring sentences of a passage, others for each number; all of a short one."""
    sentences = [" ".join(one.split()) for one in SENTENCE.split(passage)]
    sentences = [one for one in sentences if len(one.split()) >= MIN_WORDS]
    if not sentences:
        return [" ".join(passage.split())]
    # By a number prime to most counts, so that drafts of one passage begin in different places.
    chosen: list[str] = []
    for sentence in sentences[number * 7 % len(sentences) :]:
        chosen.append(sentence)
        if len(" ".join(chosen).split()) >= FOCUS_WORDS:
            break
    return chosen


def asking(passage: str) -> str:
    """Word the question for a question."""
    return (
        f"{passage}\n\nWrite a question that this passage answers, in the passage's own words, and its "
        "answer."
    )
