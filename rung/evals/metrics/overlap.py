"""Metrics of words in common: SQuAD's, ROUGE, BLEU and chrF."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from dataclasses import replace

import numpy as np

from rung.evals.metrics.base import Case, Metric, Statistics, of_pairs
from rung.evals.words import is_punctuation, spaced, words

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """As SQuAD's script: lower case, without punctuation (of any script), articles and extra blanks."""
    bare = text.lower().translate(_PUNCTUATION)
    if not bare.isascii():
        bare = unicodedata.normalize("NFC", bare)
        bare = "".join(c for c in bare if not is_punctuation(c))
    # An answer that is nothing but an article, such as the letter of a choice, stays.
    return " ".join(_ARTICLES.sub(" ", bare).split() or bare.split())


def exact_match(text: str, reference: str) -> float:
    """1 where both are equal once normalised."""
    return float(normalise(text) == normalise(reference))


def token_f1(text: str, reference: str) -> float:
    """F1 of the words in common."""
    told, right = (spaced(normalise(t)).split() for t in (text, reference))
    if not told or not right:
        return float(told == right)
    common = sum((Counter(told) & Counter(right)).values())
    return 2 * common / (len(told) + len(right))


class _Words:
    """The rouge-score package's own words in ASCII, stems included; in other scripts theirs."""

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self._ascii = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        return [t for w in words(text) for t in (self._ascii.tokenize(w) if w.isascii() else [w])]


def rouge(kind: str) -> Statistics:
    """ROUGE's F1 by the rouge-score package, with its stemmer, over the words of any script."""

    def statistics(case: Case) -> np.ndarray:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([kind], tokenizer=_Words())
        pairs = zip(case.texts, case.references, strict=True)
        found = [scorer.score(reference, text)[kind].fmeasure for text, reference in pairs]
        return np.array([[value, 1.0] for value in found]).reshape(-1, 2)

    return statistics


# --- BLEU and chrF: sacrebleu counts, and its formula is applied to any sum of the counts ------------


def bleu_counts(case: Case) -> np.ndarray:
    """(n, 10): length of answer and reference, matches of 1 to 4 words, and how many there were."""
    from sacrebleu.metrics import BLEU

    # sacrebleu's usual tokenizer takes a Chinese sentence for one word.
    parted = replace(
        case, texts=[spaced(t) for t in case.texts], references=[spaced(r) for r in case.references]
    )
    return _sacrebleu(BLEU(effective_order=False), parted)


def _sacrebleu(metric, case: Case) -> np.ndarray:
    texts = [" ".join(t.split()) for t in case.texts]
    references = [" ".join(r.split()) for r in case.references]
    if not texts:
        return np.zeros((0, 1))
    found = metric._extract_corpus_statistics(texts, [references])
    return np.array(found, dtype=np.float64)


def bleu(sums: np.ndarray) -> np.ndarray:
    """Sums of `bleu_counts` (..., 10) -> BLEU with exponential smoothing, as sacrebleu's default.

    Where no answer has four words, as many as there are count; sacrebleu says 0 even of equal texts.
    """
    return _each(sums, lambda row: _bleu(row, effective=not row[9]))


def sentence_bleu(statistics: np.ndarray) -> np.ndarray:
    """BLEU of single sentences, by as many word counts as they have."""
    return _each(statistics, lambda row: _bleu(row, effective=True))


def _bleu(row: np.ndarray, *, effective: bool) -> float:
    from sacrebleu.metrics import BLEU

    counts = [int(v) for v in row]
    return BLEU.compute_bleu(
        counts[2:6], counts[6:10], counts[0], counts[1], smooth_method="exp", effective_order=effective
    ).score


def chrf_counts(case: Case) -> np.ndarray:
    """(n, 18): per order of 1 to 6 characters, those of answer, of reference, and in common."""
    from sacrebleu.metrics import CHRF

    return _sacrebleu(CHRF(), case)


def chrf(sums: np.ndarray) -> np.ndarray:
    """Sums of `chrf_counts` (..., 18) -> chrF2."""
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    return _each(sums, lambda row: metric._compute_f_score([int(v) for v in row]))


def _each(rows: np.ndarray, figure) -> np.ndarray:
    flat = rows.reshape(-1, rows.shape[-1])
    return np.array([figure(row) for row in flat]).reshape(rows.shape[:-1])


SHORT_ANSWER_KINDS = ("question_answering", "extraction")

metrics = [
    Metric("exact_match", "share of answers equal to the reference, as SQuAD normalises",
           of_pairs(exact_match), kinds=(*SHORT_ANSWER_KINDS, "translation", "generation")),
    Metric("token_f1", "words in common with the reference, as SQuAD counts", of_pairs(token_f1),
           kinds=SHORT_ANSWER_KINDS),
    Metric("rouge_1", "ROUGE-1 F1", rouge("rouge1"), kinds=("generation",)),
    Metric("rouge_2", "ROUGE-2 F1", rouge("rouge2"), kinds=("generation",)),
    Metric("rouge_l", "ROUGE-L F1", rouge("rougeL"),
           kinds=("generation", "translation", "question_answering")),
    Metric("bleu", "BLEU of the whole, 0 to 100", bleu_counts, bleu, kinds=("translation",),
           item=sentence_bleu, bounds=(0.0, 100.0)),
    Metric("chrf", "chrF of the whole, 0 to 100", chrf_counts, chrf,
           kinds=("translation", "generation"), bounds=(0.0, 100.0)),
]  # fmt: skip
