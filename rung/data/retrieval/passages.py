"""Documents cut into passages that are short enough for a prompt.

A passage ends between paragraphs where it can, between sentences where a paragraph is too long, and
between words only within a sentence that is. It begins with the last words of the one before, so that
what stands across a border is whole in one of the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rung.data.retrieval.documents import Document

CHARACTERS = 10  # of a word at most, in the mean: scripts without spaces are cut by this
SENTENCE = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])|\n")


@dataclass(frozen=True)
class Passage:
    """A part of a document. `number` counts from 1 within the document."""

    source: str
    number: int
    text: str

    @property
    def name(self) -> str:
        """How people and gold columns name it: `manual.md#3`."""
        return f"{self.source}#{self.number}"


def cut(documents: Iterable[Document], words: int = 120, overlap: int = 20) -> list[Passage]:
    """The passages of all documents, in their order.

    Args:
        words: of a passage at most. overlap: of them repeated from the passage before; below `words`.
    """
    if not 0 <= overlap < words:
        raise ValueError("overlap must be below words")
    return [
        Passage(document.name, number, text)
        for document in documents
        for number, text in enumerate(_packed(document.text, words, overlap), 1)
    ]


def _packed(text: str, words: int, overlap: int) -> Iterator[str]:
    """Pieces put together for as long as they fit."""
    room = words - overlap
    held: list[str] = []
    before: list[str] = []  # the last words of the passage before
    count = 0
    for piece, joint in _pieces(text, room):
        size = _size(piece)
        if held and count + size > room:
            yield _joined(before, held)
            before = _tail("".join(held), overlap)
            held, count = [], 0
        held += [joint if held else "", piece]
        count += size
    if held:
        yield _joined(before, held)


def _joined(before: list[str], held: list[str]) -> str:
    return " ".join([*before, "".join(held)])


def _tail(text: str, overlap: int) -> list[str]:
    """The last words, as far as they are words and not a page without spaces."""
    found = text.split()[-overlap:] if overlap else []
    while found and len(" ".join(found)) > overlap * CHARACTERS:
        found.pop(0)
    return found


def _pieces(text: str, room: int) -> Iterator[tuple[str, str]]:
    """(piece of at most `room` words, what joins it to the piece before)."""
    for paragraph in re.split(r"\n\s*\n", text):
        whole = paragraph.strip()
        if not whole:
            continue
        if _size(whole) <= room:
            yield whole, "\n\n"
            continue
        joint = "\n\n"
        for sentence in filter(None, map(str.strip, SENTENCE.split(whole))):
            for piece in _chopped(sentence, room):
                yield piece, joint
                joint = " "


def _chopped(sentence: str, room: int) -> Iterator[str]:
    """A sentence as it is, or cut where it has too many words or too long ones."""
    if _size(sentence) <= room:
        yield sentence
        return
    held: list[str] = []
    for word in sentence.split():
        for low in range(0, len(word), room * CHARACTERS):
            part = word[low : low + room * CHARACTERS]
            if held and _size(" ".join([*held, part])) > room:
                yield " ".join(held)
                held = []
            held.append(part)
    if held:
        yield " ".join(held)


def _size(text: str) -> int:
    """Words, or what as many characters would be."""
    return max(len(text.split()), -(-len(text) // CHARACTERS))
