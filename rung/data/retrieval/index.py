"""Passages that can be searched: by words, by vectors, or by both ranks together.

Hybrid ranks add up reciprocally, 1 / (60 + rank), as in Cormack, Clarke and Büttcher, "Reciprocal rank
fusion outperforms Condorcet", SIGIR 2009.

On disk an index is `passages.jsonl`, the arrays of BM25 and, with vectors, `vectors.safetensors`:
nothing that could run. The table that lancedb searches is made from these, in a cache of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rung.data.retrieval.lexical import Lexical
from rung.data.retrieval.passages import Passage
from rung.errors import ArtefactError, DataError

if TYPE_CHECKING:
    from numpy import ndarray

    from rung.data.retrieval.vectors import Vectors

Embed = Callable[[Sequence[str]], "ndarray"]  # texts -> (n, d) float32, each row of length 1

MODES = ("bm25", "vectors", "hybrid")
PASSAGES, WORDS, VECTORS = "passages.jsonl", "bm25", "vectors.safetensors"
FUSED = 60  # the constant of reciprocal rank fusion
DEPTH = 50  # ranks of each list that are fused


@dataclass(frozen=True)
class Hit:
    """A passage that was found; `number` is its place in the index."""

    number: int
    passage: Passage
    score: float


class Index:
    """Passages, BM25 over them, and vectors where there are any.

    `embed` makes a query's vector; the texts' own were made by the same function.
    """

    def __init__(
        self,
        passages: Sequence[Passage],
        lexical: Lexical,
        vectors: Vectors | None = None,
        embed: Embed | None = None,
    ):
        self.passages, self.lexical = list(passages), lexical
        self.vectors, self.embed = vectors, embed

    @classmethod
    def of(cls, passages: Sequence[Passage], embed: Embed | None = None) -> Index:
        """Index passages; with `embed` by vectors too.

        Raises:
            DataError: when the passages hold no words.
        """
        try:
            lexical = Lexical([p.text for p in passages])
        except ValueError:
            raise DataError("the documents hold no words to search for") from None
        if embed is None:
            return cls(passages, lexical)
        from rung.data.retrieval.vectors import Vectors

        return cls(passages, lexical, Vectors.of(embed([p.text for p in passages])), embed)

    def search(self, query: str, most: int, mode: str = "bm25") -> list[Hit]:
        """The passages that fit a query best, the best first; fewer than `most` where no more do."""
        if mode == "bm25":
            found = self.lexical.search(query, most)
        elif mode == "vectors":
            found = self._by_meaning(query, most)
        else:
            ranks = [self.lexical.search(query, DEPTH), self._by_meaning(query, DEPTH)]
            found = _fused(ranks)[:most]
        return [Hit(i, self.passages[i], score) for i, score in found]

    def _by_meaning(self, query: str, most: int) -> list[tuple[int, float]]:
        if self.vectors is None or self.embed is None:
            raise ArtefactError("this index has no vectors: use --retrieval bm25")
        return self.vectors.search(self.embed([query])[0], most)

    def save(self, folder: Path) -> None:
        """Write the index into an existing folder."""
        lines = [json.dumps(asdict(p), ensure_ascii=False) for p in self.passages]
        (folder / PASSAGES).write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.lexical.save(folder / WORDS)
        if self.vectors is not None:
            self.vectors.save(folder / VECTORS)

    @classmethod
    def load(cls, folder: Path, embed: Embed | None = None) -> Index:
        """What `save` wrote.

        Raises:
            ArtefactError: naming the file that is missing or damaged.
        """
        passages = _read(folder / PASSAGES)
        lexical = Lexical.load(folder / WORDS, len(passages))
        if not (folder / VECTORS).exists():
            return cls(passages, lexical)
        from rung.data.retrieval.vectors import Vectors

        vectors = Vectors.load(folder / VECTORS, len(passages))
        return cls(passages, lexical, vectors, embed)


def _read(path: Path) -> list[Passage]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        passages = [Passage(row["source"], row["number"], row["text"]) for row in rows]
        typed = all(
            isinstance(p.source, str) and isinstance(p.number, int) and isinstance(p.text, str)
            for p in passages
        )
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise ArtefactError(f"{path} cannot be read: {fault}") from None
    if not passages or not typed:
        raise ArtefactError(f"{path} holds no passages: fit the model again")
    return passages


def _fused(rankings: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (i, _) in enumerate(ranking, 1):
            scores[i] = scores.get(i, 0.0) + 1 / (FUSED + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
