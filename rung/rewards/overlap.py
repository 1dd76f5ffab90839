"""Similarities of two texts, each from 0 to 1, by the names that graders of the OpenAI API use too."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Sequence

from rung.evals import metrics
from rung.evals.metrics.base import Case
from rung.evals.words import words
from rung.types import Task


def _fuzzy(text: str, reference: str) -> float:
    """The share of characters in matching blocks (Ratcliff and Obershelp)."""
    return difflib.SequenceMatcher(None, text, reference, autojunk=False).ratio()


def _cosine(text: str, reference: str) -> float:
    """The cosine of the counts of words, lower case."""
    a, b = (Counter(words(t.casefold())) for t in (text, reference))
    norm = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
    return sum(v * b[w] for w, v in a.items()) / norm if norm else float(text == reference)


def _grams(tokens: Sequence[str], size: int) -> Counter:
    return Counter(tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1))


def _gleu(text: str, reference: str) -> float:
    """The smaller of precision and recall of 1 to 4 words (Wu et al., arXiv 1609.08144)."""
    told, right = words(text), words(reference)
    common = total = wanted = 0
    for size in range(1, 5):
        a, b = _grams(told, size), _grams(right, size)
        common += (a & b).total()
        total, wanted = total + a.total(), wanted + b.total()
    return common / max(total, wanted) if max(total, wanted) else float(text == reference)


def _meteor(text: str, reference: str) -> float:
    """METEOR with exact words alone: F with recall weighted 9 to 1, less for scattered matches."""
    told, right = words(text.casefold()), words(reference.casefold())
    places: dict[str, list[int]] = {}
    for i, word in enumerate(right):
        places.setdefault(word, []).append(i)
    pairs = []
    for i, word in enumerate(told):
        if places.get(word):
            pairs.append((i, places[word].pop(0)))
    if not pairs:
        return 0.0
    precision, recall = len(pairs) / len(told), len(pairs) / len(right)
    mean = 10 * precision * recall / (recall + 9 * precision)
    follows = [b == (a[0] + 1, a[1] + 1) for a, b in zip(pairs, pairs[1:], strict=False)]
    chunks = len(pairs) - sum(follows)
    return mean * (1 - 0.5 * (chunks / len(pairs)) ** 3)


def _rouge(size: int) -> Callable[[str, str], float]:
    """F1 of so many words in a row."""

    def score(text: str, reference: str) -> float:
        a, b = (_grams(words(t.casefold()), size) for t in (text, reference))
        both = a.total() + b.total()
        return 2 * (a & b).total() / both if both else 0.0

    return score


_OWN: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": _fuzzy, "cosine": _cosine, "gleu": _gleu, "meteor": _meteor,
    "rouge_3": _rouge(3), "rouge_4": _rouge(4), "rouge_5": _rouge(5),
}  # fmt: skip
_METRICS = ("token_f1", "rouge_1", "rouge_2", "rouge_l", "bleu", "chrf")
MEASURES = (*_METRICS, *_OWN)


def measured(name: str, texts: Sequence[str], references: Sequence[str]) -> list[float]:
    """How near each text is to its reference, by one of `MEASURES`, 0 to 1."""
    if name in _OWN:
        return [_OWN[name](t, r) for t, r in zip(texts, references, strict=True)]
    if not texts:
        return []
    metric = metrics.get(name)
    found = metric.items(metric.statistics(Case(texts, references, None, Task("generation", name))))
    return [float(v) / metric.bounds[1] for v in found]
