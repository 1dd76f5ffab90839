"""Edit distance of names: the floor that every other rung has to beat.

The similarity is 2 LCS / (n + m), LCS the longest common subsequence, as Indel distance has it; once of
the names as they are read and once of their words in alphabetical order, and the higher of both. LCS is
computed bit-parallel (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004), one left name
against all right ones at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rung.mapping.problem import Problem
from rung.mapping.records import Record
from rung.mapping.rungs import base

MAX_CHARACTERS = 64  # characters of a name that are compared: the bits of a word


class Rung(base.Rung):
    summary = "names by their edit distance"
    place = 10

    def fit(self, problem: Problem, cheaper: Mapping[str, base.Scorer]) -> base.Scorer:
        return Scorer(problem.right)

    def restore(self, right: Sequence[Record], state: base.State, tools: base.Tools) -> base.Scorer:
        return Scorer(right)


class Scorer(base.BlockScorer):
    """Edit similarity of names, from 0 to 1."""

    def __init__(self, right: Sequence[Record]):
        super().__init__(right)
        self._views = [Texts([view(r.words) for r in right]) for view in VIEWS]

    def block(self, left: Sequence[Record]) -> np.ndarray:
        found = np.empty((len(left), len(self.right)), dtype=np.float32)
        for i, record in enumerate(left):
            each = [
                texts.similarity(view(record.words))
                for view, texts in zip(VIEWS, self._views, strict=True)
            ]
            found[i] = np.maximum(*each)
        return found


def _as_read(words: str) -> str:
    return words


def _sorted(words: str) -> str:
    return " ".join(sorted(words.split()))


VIEWS = (_as_read, _sorted)


class Texts:
    """Texts that one other is compared with at once."""

    def __init__(self, texts: Sequence[str]):
        cut = [text[:MAX_CHARACTERS] for text in texts]
        self._code = {c: i for i, c in enumerate(sorted({c for text in cut for c in text}), 1)}
        longest = max(map(len, cut), default=0)
        self._codes = np.zeros((longest, len(cut)), dtype=np.int32)  # 0 matches nothing
        for i, text in enumerate(cut):
            self._codes[: len(text), i] = [self._code[c] for c in text]
        self._lengths = np.array([len(text) for text in cut], dtype=np.int64)

    def similarity(self, text: str) -> np.ndarray:
        """2 LCS / (n + m) with every text: (texts,) float32 in 0 to 1; 1 for two empty ones."""
        text = text[:MAX_CHARACTERS]
        masks = np.zeros(len(self._code) + 1, dtype=np.uint64)
        for i, character in enumerate(text):
            if character in self._code:
                masks[self._code[character]] |= np.uint64(1 << i)
        state: np.ndarray = np.full(len(self._lengths), np.iinfo(np.uint64).max, dtype=np.uint64)
        for column in self._codes:
            matched: np.ndarray = state & masks[column]
            state = (state + matched) | (state - matched)  # addition wraps, as it should
        bits = np.uint64((1 << len(text)) - 1)
        common = np.bitwise_count(~state & bits).astype(np.float32)
        return np.where(
            self._lengths + len(text) > 0,
            2 * common / np.maximum(self._lengths + len(text), 1), 1.0,
        ).astype(np.float32)  # fmt: skip
