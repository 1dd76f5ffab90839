"""Intervals and paired comparison, held against scipy and against repeated draws."""

from __future__ import annotations

import numpy as np
import pytest

from rung.evals import metrics
from rung.evals.compare import compare, mcnemar
from rung.evals.intervals import bootstrap, detectable, percentile, wilson
from rung.evals.measure import Measured, interval
from rung.evals.metrics.base import mean


def measured(items, metric="accuracy"):
    items = np.asarray(items, dtype=float)
    statistics = np.stack([items, np.ones_like(items)], 1)
    return Measured(metric, float(items.mean()), 0.0, 1.0, len(items), items, statistics)


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (84, 100), (1, 1), (450, 1000)])
def test_wilsons_interval_equals_scipys(k, n):
    from scipy.stats import binomtest

    theirs = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    with pytest.raises(ValueError, match="at least one"):
        wilson(0, 0)


def test_the_bootstrap_covers_what_it_should():
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        items = generator.gamma(2.0, size=60)
        low, high = percentile(bootstrap(np.stack([items, np.ones(60)], 1), mean, 400))
        hits += low <= 2.0 <= high
    assert 0.88 <= hits / 200 <= 0.99
    again = bootstrap(np.ones((4, 2)), mean)
    assert np.array_equal(again, bootstrap(np.ones((4, 2)), mean)) and (again == 1).all()


def test_mcnemars_test_equals_the_binomial_one():
    from scipy.stats import binomtest

    generator = np.random.default_rng(2)
    for _ in range(20):
        a, b = (generator.random((2, 40)) < 0.6).astype(float)
        only_a, only_b = int((a > b).sum()), int((b > a).sum())
        expected = binomtest(only_a, only_a + only_b).pvalue
        assert mcnemar(a, b) == pytest.approx(expected, abs=1e-12)
    assert mcnemar(a, a) == 1.0


def test_no_difference_is_said_where_there_is_none():
    a, b = measured([1, 0] * 10), measured([0, 1] * 10)
    found = compare(a, b)
    assert not found.certain and "no difference can be shown with 20 items" in found.says
    assert found.low < 0 < found.high


def test_a_difference_is_said_and_signed():
    a, b = measured([0] * 30 + [1] * 10), measured([1] * 40)
    found = compare(a, b)
    assert found.certain and found.difference == 0.75 and found.says.startswith("better by 0.75")
    assert compare(b, a).says.startswith("worse by 0.75")
    # The same by bootstrap, where items are not right or wrong.
    found = compare(
        measured(np.linspace(0, 0.5, 40), "rouge_l"), measured(np.linspace(0.4, 0.9, 40), "rouge_l")
    )
    assert found.certain and found.low == pytest.approx(0.4) == found.high
    with pytest.raises(ValueError, match="same items"):
        compare(a, measured([1]))


@pytest.mark.parametrize(
    ("apart", "p"), [(0, 1.0), (1, 1.0), (2, 0.5), (5, 0.0625), (8, 2**-7), (30, 2 / 2001)]
)
def test_few_items_that_differ_are_no_surer_than_a_sign_test(apart, p):
    before = np.linspace(0.2, 0.6, 40)
    after = before + 0.01 * (np.arange(40) < apart)
    found = compare(measured(before, "rouge_l"), measured(after, "rouge_l"))
    assert found.p >= p and found.certain == (apart >= 8)
    few = slice(max(apart, 1))
    alone = compare(measured(before[few], "rouge_l"), measured(after[few], "rouge_l"))
    assert alone.p == pytest.approx(p)


LABELLED = np.array([[1, 0, 1, 0, 1, 0]] * 5 + [[0, 1, 0, 1, 0, 1]] * 5, dtype=float)
NO_CALLS = [[0.0, 0.0]] * 6  # rows that right_tools is not of


@pytest.mark.parametrize(
    ("name", "statistics", "n"),
    [
        ("label_f1", [[2, 2, 2]] * 10, 10), ("label_f1", [[2, 2, 2]] * 4 + [[0, 0, 0]], 4),
        ("label_f1", [[0, 0, 0]] * 3, 3), ("macro_f1", LABELLED, 10),
        ("attachment_score", [[3, 3]] * 10, 10),
        ("win_rate_equal_length", [[1, 1, 0, 0, 0]] * 9, 9),
        ("right_tools", [[1.0, 1.0]] * 4 + NO_CALLS, 4),
        ("bleu", [[5, 5, 5, 4, 3, 2, 5, 4, 3, 2]] * 6, 6),
    ],
)  # fmt: skip
def test_items_that_are_all_at_one_end_have_wilsons_interval(name, statistics, n):
    metric, statistics = metrics.get(name), np.array(statistics, dtype=float)
    most = metric.bounds[1]
    found = interval(metric, statistics, metric.items(statistics))
    assert found == pytest.approx((most * wilson(n, n)[0], most))


def test_items_that_are_all_wrong_have_an_upper_end_above_none():
    metric, statistics = metrics.get("label_f1"), np.array([[0.0, 1.0, 2.0]] * 8)
    found = interval(metric, statistics, metric.items(statistics))
    assert found == pytest.approx(wilson(0, 8))
    halves = np.array([[0.5, 1.0]] * 8)  # at no end nothing is known of how they spread
    assert interval(metrics.get("win_rate"), halves, halves[:, 0]) == (0.5, 0.5)


def test_less_perplexity_is_better():
    def perplexity(nats):
        statistics = np.stack([np.asarray(nats), np.full(len(nats), 10.0)], 1)
        value = float(np.exp(sum(nats) / (10 * len(nats))))
        return Measured("perplexity", value, 0, 0, len(nats), np.exp(np.asarray(nats) / 10), statistics)

    generator = np.random.default_rng(0)
    base = generator.normal(30, 3, 50)
    assert compare(perplexity(base), perplexity(base - 5)).says.startswith("better by")


def test_what_a_few_items_can_show():
    assert detectable(100) == pytest.approx(0.198, abs=0.001)
    assert detectable(400) == pytest.approx(detectable(100) / 2)
    assert detectable(100, 0.9) < detectable(100, 0.5)
    assert detectable(1) == 1.0 and detectable(50, 1.0) > 0
    with pytest.raises(ValueError, match="at least one"):
        detectable(0)
    # Held against draws: at that distance, four of five tests of two independent models see it.
    generator = np.random.default_rng(3)
    n, gap = 400, detectable(400, 0.5)
    seen = 0
    for _ in range(200):
        a = (generator.random(n) < 0.5 - gap / 2).astype(float)
        b = (generator.random(n) < 0.5 + gap / 2).astype(float)
        seen += mcnemar(a, b) < 0.05
    assert 0.65 <= seen / 200 <= 0.95
