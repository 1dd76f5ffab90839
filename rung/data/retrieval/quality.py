"""How good retrieval is, apart from what a model makes of it: recall@k and mean reciprocal rank.

A row's right passage is the one it names, else any that contains its answer. Rows of which neither can
be said do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rung.data.retrieval.index import Index
from rung.data.retrieval.lexical import words
from rung.data.retrieval.passages import Passage
from rung.types import Example

MIN_LETTERS = 3  # of an answer: a shorter one stands in many passages by chance
DEPTHS = (1, 3, 5, 10)


@dataclass(frozen=True)
class Quality:
    """`recall[k]`: share of rows with a right passage among the first k. `mrr`: mean of 1/rank.

    `gold` says how the right passages were known: named by the rows, or containing the answer.
    """

    recall: dict[int, float]
    mrr: float
    rows: int
    gold: str

    def metrics(self) -> dict[str, Any]:
        """Flat, for cards and tables."""
        found: dict[str, Any] = {f"retrieval_recall_at_{k}": v for k, v in self.recall.items()}
        return found | {
            "retrieval_mrr": self.mrr,
            "retrieval_rows": self.rows,
            "retrieval_gold": self.gold,
        }


def measure(
    index: Index, examples: Sequence[Example], mode: str, query: Callable[[Example], str]
) -> Quality | None:
    """Search for each row's query; None when no row tells what would be right."""
    named = any(example.gold for example in examples)
    right = _names if named else _contains
    ranks = []
    for example in examples:
        gold = {i for i, passage in enumerate(index.passages) if right(passage, example)}
        if not gold:
            continue
        hits = index.search(query(example), DEPTHS[-1], mode)
        ranks.append(next((n for n, hit in enumerate(hits, 1) if hit.number in gold), None))
    if not ranks:
        return None
    recall = {k: sum(r is not None and r <= k for r in ranks) / len(ranks) for k in DEPTHS}
    mrr = sum(1 / r for r in ranks if r is not None) / len(ranks)
    return Quality(recall, mrr, len(ranks), "named by the rows" if named else "contains the answer")


def unknown(index: Index, examples: Sequence[Example]) -> list[str]:
    """Gold names that no document or passage has, each once."""
    names = {p.source for p in index.passages} | {p.name for p in index.passages}
    return sorted({e.gold for e in examples if e.gold and e.gold.strip() not in names})


def _names(passage: Passage, example: Example) -> bool:
    return bool(example.gold) and (example.gold or "").strip() in (passage.source, passage.name)


def _contains(passage: Passage, example: Example) -> bool:
    answer = " ".join(words(example.messages[-1]["content"])) if example.messages else ""
    return len(answer) >= MIN_LETTERS and f" {answer} " in f" {' '.join(words(passage.text))} "
