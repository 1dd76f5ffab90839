"""Near duplicates are what comparing every pair finds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.synthesis.duplicates import Duplicates, jaccard, plain, shingles
from tests.synthesis.conftest import WORDS


def drawn(seed: int) -> list[str]:
    """Texts of which some are near each other: a few words are changed."""
    source = random.Random(seed)
    first = [source.choice(WORDS) for _ in range(12)]
    texts = []
    for _ in range(20):
        words = list(first) if source.random() < 0.7 else [source.choice(WORDS) for _ in range(12)]
        for _ in range(source.randrange(6)):
            words[source.randrange(12)] = source.choice(WORDS)
        texts.append(" ".join(words))
    return texts


@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.7, 0.9]))
def test_the_index_finds_what_comparing_all_pairs_finds(seed, similarity):
    index, kept = Duplicates(similarity), []
    for text in drawn(seed):
        own = shingles(text)
        found = any(jaccard(own, other) >= similarity for other in kept)
        assert index.holds(text) is found
        if not found:
            index.add(text)
            kept.append(own)


@given(st.text(), st.text())
def test_similarity_is_one_for_equal_texts_and_symmetric(a, b):
    assert jaccard(shingles(a), shingles(a)) == 1
    assert jaccard(shingles(a), shingles(b)) == jaccard(shingles(b), shingles(a))


@pytest.mark.parametrize("text", ["Try again!", "try   AGAIN", "Try, again..."])
def test_case_blanks_and_punctuation_do_not_tell_texts_apart(text):
    index = Duplicates(1.0)
    index.add("try again")
    assert index.holds(text) and plain(text) == "try again"


def test_scripts_without_blanks_are_compared_too():
    index = Duplicates(0.7)
    index.add("今日は天気がとても良いので散歩に行きましょう")
    assert index.holds("今日は天気がとても良いので散歩に行きましょう。")
    assert not index.holds("明日は雨が降るので家で本を読むつもりです")
