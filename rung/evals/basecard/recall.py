"""Whether a base finds a fact again: hidden at some depth of a context of some length.

Each context hides one fact at each depth, all of one form, and is asked for each of them. The other
facts' words are the wrong choices, so the base must have read which place a word belongs to. All
choices of all questions of a context go through one trie: the context is read once.
"""

from __future__ import annotations

import random
from typing import Any

from rung.evals.basecard.material import material
from rung.evals.basecard.progress import Progress
from rung.evals.basecard.subject import Subject
from rung.evals.intervals import wilson
from rung.evals.scoring import Item, score

LENGTHS = ((128, 512), (128, 512, 2048))  # tokens, quick and thorough
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
CONTEXTS = (3, 6)  # of each length


def recall(subject: Subject, quick: bool, progress: Progress) -> dict[str, Any]:
    """Share of facts found, by length and depth; `chance` is what guessing among the words gives."""
    count = CONTEXTS[not quick]
    right: dict[tuple[int, float], int] = {}
    whole, done = sum(LENGTHS[not quick]) * count, 0
    for n in LENGTHS[not quick]:
        asked = [questions(subject, n, seed) for seed in range(count)]
        if not all(_fits(subject, n, items) for items, _ in asked):
            continue
        for items, answers in asked:
            scores = score(subject.bank, -1, items)
            for depth, row, answer in zip(DEPTHS, scores, answers, strict=True):
                hit = max(range(len(row)), key=row.__getitem__) == answer
                right[n, depth] = right.get((n, depth), 0) + hit
            done += n
            progress(done / whole)
    total, found = count * len(right), sum(right.values())
    low, high = wilson(found, total) if total else (0.0, 1.0)
    progress(1)
    return {
        "chance": 1 / len(DEPTHS),
        "asked": total,
        "found": found / max(1, total),
        "low": low,
        "high": high,
        "cells": [
            {"length": n, "depth": depth, "found": hits / count, "asked": count}
            for (n, depth), hits in right.items()
        ],
    }


def questions(subject: Subject, length: int, seed: int) -> tuple[list[Item], list[int]]:
    """A context of about `length` tokens as one question per depth, and which choice is right."""
    hidden = material().hidden
    generator = random.Random(f"{length} {seed}")
    places = generator.sample(hidden.places, len(DEPTHS))
    words = generator.sample(hidden.words, len(DEPTHS))
    facts = [hidden.fact.format(place=p, word=w) for p, w in zip(places, words, strict=True)]
    sentences = _filler(subject, length - _tokens(subject, " ".join(facts)), generator)
    text = list(sentences)
    for depth, fact in sorted(zip(DEPTHS, facts, strict=True), reverse=True):
        text.insert(round(depth * len(sentences)), fact)
    context = " ".join(text)
    order = generator.sample(range(len(words)), len(words))
    choices = [words[i] for i in order]
    items = [
        subject.item(f"{context}\n\n{hidden.question.format(place=place)}", choices) for place in places
    ]
    return items, [order.index(i) for i in range(len(places))]


def _fits(subject: Subject, length: int, items: list[Item]) -> bool:
    """Whether it is as long as it says, facts included, and the context holds it with its question."""
    shortest = min(len(item.prompt) for item in items)
    longest = max(len(item.prompt) + max(map(len, item.answers)) for item in items)
    return longest <= subject.context and shortest < 1.5 * length


def _filler(subject: Subject, room: int, generator: random.Random) -> list[str]:
    """Sentences of about so many tokens, in an order of their own, again from the start if need be."""
    found: list[str] = []
    while True:
        for sentence in generator.sample(material().hidden.filler, len(material().hidden.filler)):
            room -= _tokens(subject, " " + sentence)
            if room < 0:
                return found
            found.append(sentence)


def _tokens(subject: Subject, text: str) -> int:
    return len(subject.tokenizer.encode(text, add_special_tokens=False))
