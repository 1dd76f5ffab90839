"""TF-IDF of names and descriptions: n-grams of characters and of words, compared by their cosine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rung.evals.ngrams import Ngrams
from rung.mapping.problem import Problem
from rung.mapping.records import Record
from rung.mapping.rungs import base


class Rung(base.Rung):
    summary = "n-grams of names and descriptions by TF-IDF"
    place = 20

    def fit(self, problem: Problem, cheaper: Mapping[str, base.Scorer]) -> base.Scorer:
        texts = [r.sentence for r in (*problem.left, *problem.right)]
        return Scorer(problem.right, Ngrams.of(texts))

    def restore(self, right: Sequence[Record], state: base.State, tools: base.Tools) -> base.Scorer:
        parts = {
            str(kind): ([str(t) for t in terms], state.tensors[f"idf.{kind}"])
            for kind, terms in state.settings["terms"].items()
        }
        if any(len(terms) != len(idf) for terms, idf in parts.values()):
            raise ValueError("terms and idf are not of one length")
        return Scorer(right, Ngrams(parts))


class Scorer(base.BlockScorer):
    """Cosine of n-grams' weights, from 0 to 1: the mean of names alone and of all that is known."""

    def __init__(self, right: Sequence[Record], ngrams: Ngrams):
        super().__init__(right)
        self.ngrams = ngrams
        self._columns = [self._vectors(view, right).T.tocsc() for view in VIEWS]

    def _vectors(self, view, records: Sequence[Record]):
        from sklearn.preprocessing import normalize

        return normalize(self.ngrams.vectors([view(r) for r in records]))

    def block(self, left: Sequence[Record]) -> np.ndarray:
        found = np.zeros((len(left), len(self.right)), dtype=np.float32)
        for view, columns in zip(VIEWS, self._columns, strict=True):
            found += (self._vectors(view, left) @ columns).toarray()
        return found / len(VIEWS)

    def state(self) -> base.State:
        parts = self.ngrams.parts
        return base.State(
            {"terms": {kind: list(terms) for kind, (terms, _) in parts.items()}},
            {f"idf.{kind}": np.asarray(idf, dtype=np.float32) for kind, (_, idf) in parts.items()},
        )


def _name(record: Record) -> str:
    return record.words


def _all(record: Record) -> str:
    return record.sentence


VIEWS = (_name, _all)
