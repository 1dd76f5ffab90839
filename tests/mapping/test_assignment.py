"""Assignment, similarity, confidence and threshold against references."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from rung.evals.intervals import wilson
from rung.mapping.candidates import NOBODY, assign
from rung.mapping.confidence import calibrate, threshold
from rung.mapping.measure import METRICS, Figures, compare
from rung.mapping.rungs.base import Candidates, best
from rung.mapping.rungs.edit_distance import Texts

sizes = st.integers(1, 9)


def scores(seed: int, n: int, m: int) -> np.ndarray:
    """(n, m) in 0 to 1, many of them equal and some 0."""
    return (np.random.default_rng(seed).integers(0, 8, (n, m)) / 8).astype(np.float32)


@given(st.integers(0, 10_000), sizes, sizes)
def test_an_assignment_is_one_to_one_and_as_heavy_as_scipys_on_all_pairs(seed, n, m):
    weights = scores(seed, n, m)
    candidates = best(weights, m)
    chosen = assign(candidates, candidates.scores, m)
    places = [int(candidates.places[i, j]) for i, j in enumerate(chosen) if j != NOBODY]
    assert len(set(places)) == len(places)
    total = sum(float(candidates.scores[i, j]) for i, j in enumerate(chosen) if j != NOBODY)
    rows, columns = linear_sum_assignment(weights, maximize=True)
    assert total == pytest.approx(float(weights[rows, columns].sum()))
    assert all(candidates.scores[i, j] > 0 for i, j in enumerate(chosen) if j != NOBODY)


@given(st.integers(0, 10_000), sizes, sizes, st.integers(1, 4))
def test_with_few_candidates_it_stays_among_them_and_many_to_one_takes_the_first(seed, n, m, k):
    candidates = best(scores(seed, n, m), min(k, m))
    chosen = assign(candidates, candidates.scores, m)
    places = [int(candidates.places[i, j]) for i, j in enumerate(chosen) if j != NOBODY]
    assert len(set(places)) == len(places) and all(NOBODY <= j < min(k, m) for j in chosen)
    many = assign(candidates, candidates.scores, m, many_to_one=True)
    assert [j for j in many] == [0 if candidates.scores[i, 0] > 0 else NOBODY for i in range(n)]


@given(st.integers(0, 10_000), sizes, sizes, st.integers(1, 12))
def test_candidates_are_the_highest_scores_in_order(seed, n, m, k):
    given_scores = scores(seed, n, m)
    found = best(given_scores, k)
    for row, places, told in zip(given_scores, found.places, found.scores, strict=True):
        assert sorted(row, reverse=True)[:k] == list(told)
        assert len(set(places.tolist())) == len(places) and list(row[places]) == list(told)


def reference(a: str, b: str) -> float:
    """2 LCS / (n + m) by the textbook's table."""

    @cache
    def lcs(i: int, j: int) -> int:
        if not i or not j:
            return 0
        if a[i - 1] == b[j - 1]:
            return lcs(i - 1, j - 1) + 1
        return max(lcs(i - 1, j), lcs(i, j - 1))

    return 2 * lcs(len(a), len(b)) / (len(a) + len(b)) if a or b else 1.0


names = st.text("abcxyz é", max_size=12)


@given(st.lists(names, min_size=1, max_size=5), names)
@settings(max_examples=60)
def test_edit_similarity_is_that_of_the_textbook(texts, text):
    assert Texts(texts).similarity(text) == pytest.approx([reference(text, t) for t in texts])


def test_a_name_of_a_whole_word_of_bits_is_compared_to_its_end():
    long = "a" * 63 + "b"
    assert Texts([long, long[::-1]]).similarity(long) == pytest.approx([1.0, 63 / 64])


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_confidence_never_falls_with_the_score(seed):
    generator = np.random.default_rng(seed)
    candidates = best(generator.standard_normal((20, 6)).astype(np.float32), 6)
    gold = [frozenset({int(generator.integers(0, 6))}) for _ in range(20)]
    found = calibrate(candidates, gold)
    confidences = found.confidence(candidates)
    assert np.all(np.diff(confidences, axis=1) <= 1e-12)
    assert np.all((confidences >= 0) & (confidences <= 1))


def test_a_threshold_leaves_out_those_whose_answers_are_wrong():
    confidences = np.array([0.9, 0.8, 0.3, 0.2])
    right = np.array([True, True, False, False])
    gold = [frozenset({0}) if one else frozenset() for one in right]

    def value(at: float) -> float:
        return Figures.of(np.where(confidences >= at, 0, NOBODY), gold).value("f1")

    assert 0.3 < threshold(confidences, value) < 0.8


def test_figures_count_what_was_mapped_and_what_has_a_partner():
    gold = [frozenset({1}), frozenset({2, 3}), frozenset(), frozenset({4}), frozenset()]
    found = Figures.of(np.array([1, 3, 5, NOBODY, NOBODY]), gold)
    expected = {"accuracy": 3 / 5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "coverage": 3 / 5}
    assert {name: found.value(name) for name in METRICS} == pytest.approx(expected)
    low, high = found.interval("f1")
    assert 0 <= low <= 2 / 3 <= high <= 1


def test_a_paired_comparison_tells_a_difference_from_none():
    gold = [frozenset({0})] * 60
    worse = Figures.of(np.where(np.arange(60) % 3 == 0, 0, NOBODY), gold)
    better = Figures.of(np.where(np.arange(60) % 3 != 2, 0, NOBODY), gold)
    for metric in ("f1", "accuracy"):
        assert (
            compare(worse, better, metric).certain and "better" in compare(worse, better, metric).says
        )
        assert not compare(worse, worse, metric).certain
    with pytest.raises(ValueError):
        compare(worse, Figures.of(np.array([0]), gold[:1]), "f1")


def test_records_that_are_all_alike_have_an_interval_of_their_number():
    gold = [frozenset({0})] * 6 + [frozenset()] * 4
    found = Figures.of(np.array([0] * 6 + [NOBODY] * 4), gold)
    assert found.interval("accuracy") == pytest.approx(wilson(10, 10))
    for metric in ("precision", "recall", "f1"):
        assert found.interval(metric) == pytest.approx(wilson(6, 6))
    nobody = Figures.of(np.full(10, NOBODY), gold)
    assert nobody.interval("coverage") == pytest.approx(wilson(0, 10))


def test_few_records_that_differ_are_no_surer_than_a_sign_test():
    gold = [frozenset({0})] * 6
    worse = Figures.of(np.array([NOBODY] * 4 + [0] * 2), gold)
    found = compare(worse, Figures.of(np.zeros(6, dtype=int), gold), "f1")
    assert found.p == pytest.approx(2**-3) and not found.certain


def test_candidates_of_nothing_are_nothing():
    empty = Candidates(np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32))
    assert len(assign(empty, empty.scores, 3)) == 0
