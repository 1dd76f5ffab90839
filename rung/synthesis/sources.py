"""What the user brings to a synthesis: rows that show what is wanted, and documents to ask about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from rung.data.retrieval import Index, Passage, cut, read_folder
from rung.synthesis.kinds.base import Draft
from rung.types import Example, last_question

# As rag cuts documents by default, so that a question stands on a passage that rag can find.
PASSAGE_WORDS, OVERLAP_WORDS = 120, 20
MAX_RANK = 3  # of a question's own passage among those that it finds


def texts_of(examples: Iterable[Example]) -> list[str]:
    """The texts of rows that a new row must not repeat: what they ask and what they reply."""
    found = []
    for example in examples:
        if example.text is not None:
            found.append(example.text)
        found += [m["content"] for m in example.messages if m["role"] in ("user", "assistant")]
    return [text for text in dict.fromkeys(found) if len(text.split()) > 1]


def examples_of(examples: Sequence[Example]) -> list[str]:
    """What rows ask, to show a teacher."""
    found = [e.text if e.text is not None else last_question(e.messages) for e in examples]
    return [" ".join(text.split()) for text in found if text]


@dataclass
class Passages:
    """Passages of documents, given to drafts so that all are asked about before any is twice.

    Attributes:
        found: by document, in the order of the folder.
    """

    found: dict[str, list[Passage]]
    given: Counter[str] = field(default_factory=Counter)

    @property
    def documents(self) -> tuple[str, ...]:
        """Names of the documents."""
        return tuple(self.found)

    def give(self, draft: Draft) -> None:
        """Hand a draft the next passage of its document, which is its topic."""
        own = self.found[draft.topic]
        draft.earlier, place = divmod(self.given[draft.topic], len(own))
        passage = own[place]
        self.given[draft.topic] += 1
        draft.document, draft.passage, draft.gold = passage.source, passage.text, passage.name

    @cached_property
    def _index(self) -> Index:
        return Index.of([passage for own in self.found.values() for passage in own])

    def unfound(self, draft: Draft, question: str) -> str | None:
        """Say why a question is none of its passage's own: others fit it better by their words.

        Round-trip filtering, as in Dai et al., Promptagator, arXiv 2209.11755.
        """
        hits = self._index.search(question, MAX_RANK)
        if any(hit.passage.name == draft.gold for hit in hits):
            return None
        return "fits other passages better"


def passages_of(folder: str, note: Callable[[str], None]) -> Passages:
    """Read a folder of documents and cut it into passages.

    Raises:
        DataError: when it holds nothing to read.
    """
    found: dict[str, list[Passage]] = {}
    for passage in cut(read_folder(folder, note), PASSAGE_WORDS, OVERLAP_WORDS):
        found.setdefault(passage.source, []).append(passage)
    return Passages(found)
