"""How varied a base's continuations are at each temperature.

distinct-n (Li et al., arXiv 1510.03055): different n-grams of words over all of them; more is more
varied. Self-BLEU (Zhu et al., arXiv 1802.01886): BLEU of each continuation against the others of the
same beginning; less is more varied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rung.evals.basecard.material import material
from rung.evals.basecard.progress import Progress
from rung.evals.basecard.subject import Subject
from rung.types import Decoding

TEMPERATURES = ((0.3, 0.7, 1.0), (0.3, 0.6, 0.8, 1.0, 1.3))  # quick and thorough
SAMPLES = (4, 6)  # of each beginning
BEGINNINGS = (2, 4)
TOKENS = (16, 32)


def variety(subject: Subject, quick: bool, progress: Progress) -> dict[str, Any]:
    """distinct-1, distinct-2 and self-BLEU (0 to 1), means over beginnings, by temperature."""
    samples, temperatures = SAMPLES[not quick], TEMPERATURES[not quick]
    beginnings = material().beginnings[: BEGINNINGS[not quick]]
    room = subject.context - TOKENS[not quick]
    prompts = [subject.encode(text)[:room] for text in beginnings for _ in range(samples)]
    most = TOKENS[not quick]
    rows = []
    for i, temperature in enumerate(temperatures):
        how = [
            Decoding(max_tokens=most, temperature=temperature, seed=1000 * i + j)
            for j in range(len(prompts))
        ]
        texts = [c.text for c in subject.generate(prompts, how)]
        groups = [texts[at : at + samples] for at in range(0, len(texts), samples)]
        rows.append(
            {
                "temperature": temperature,
                "distinct_1": _mean([distinct(group, 1) for group in groups]),
                "distinct_2": _mean([distinct(group, 2) for group in groups]),
                "self_bleu": _mean([self_bleu(group) for group in groups]),
            }
        )
        progress((i + 1) / len(temperatures))
    return {"samples": len(prompts), "tokens": most, "temperatures": rows}


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words, of all there are; 0 where there is none."""
    grams = [
        tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str]) -> float:
    """The mean of each text's BLEU against the others, 0 to 1.

    Raises:
        ValueError: for fewer than two texts.
    """
    from sacrebleu.metrics import BLEU

    if len(texts) < 2:
        raise ValueError("texts are compared with each other: two at least")
    bleu = BLEU(effective_order=True)
    scores = []
    for i, text in enumerate(texts):
        others = [t for j, t in enumerate(texts) if j != i]
        scores.append(bleu.sentence_score(text, others).score / 100)
    return _mean(scores)


def _mean(figures: Sequence[float]) -> float:
    return sum(figures) / len(figures)
