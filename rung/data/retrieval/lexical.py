"""Ranking by shared words: BM25 of bm25s, with ties in the order of the texts."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rung.errors import ArtefactError

# Scripts without spaces are taken character by character, all others word by word.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_]+")


def words(text: str) -> list[str]:
    """The words that count, without case."""
    return WORD.findall(text.casefold())


def _bm25() -> Any:
    """The class. Importing bm25s makes it log every index; that is undone."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s.BM25


class Lexical:
    """An index over texts."""

    def __init__(self, texts: Sequence[str]):
        """Raises ValueError when no text holds a word."""
        tokens = [words(text) for text in texts]
        if not any(tokens):
            raise ValueError("there are no words to index")
        self.count = len(tokens)
        self._ranking = _bm25()()
        self._ranking.index(tokens, show_progress=False)

    def search(self, query: str, most: int) -> list[tuple[int, float]]:
        """(number of the text, score) of those that share a word with the query, best first."""
        import numpy as np

        known = self._ranking.vocab_dict
        tokens = [word for word in words(query) if word in known]
        if not tokens:
            return []
        scores = self._ranking.get_scores(tokens)
        order = np.argsort(-scores, kind="stable")[:most]
        return [(int(i), float(scores[i])) for i in order if scores[i] > 0]

    def save(self, folder: Path) -> None:
        """Write the index as arrays and JSON; nothing is pickled."""
        self._ranking.save(str(folder), show_progress=False, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, count: int) -> Lexical:
        """What `save` wrote, for `count` texts.

        Raises:
            ArtefactError: when it is damaged, or an index of other texts.
        """
        index = cls.__new__(cls)
        try:
            ranking: Any = _bm25().load(str(folder), load_corpus=False, allow_pickle=False)
            scores = ranking.scores
            ends, ids = scores["indptr"], scores["indices"]
            whole = (
                scores["num_docs"] == count
                and len(ends) > len(ranking.vocab_dict) - 1
                and ends[-1] == len(ids) == len(scores["data"])
                and (len(ids) == 0 or 0 <= ids.min() <= ids.max() < count)
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as fault:
            raise ArtefactError(f"the index in {folder} cannot be read: {fault}") from None
        if not whole:
            raise ArtefactError(f"the index in {folder} does not belong to its passages: fit it again")
        index.count, index._ranking = count, ranking
        return index
