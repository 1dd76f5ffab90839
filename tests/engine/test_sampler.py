"""Draws follow their distribution, and are a request's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.engine.sampler import (
    NUCLEUS,
    Draw,
    _among_all,
    _Limits,
    _tempered,
    draw,
    exponentials,
    nucleus,
)
from rung.types import Decoding


def test_greedy_is_the_argmax():
    logits = torch.randn(5, 300)
    assert draw(logits, [Draw(Decoding())] * 5).tolist() == logits.argmax(-1).tolist()


def test_a_row_does_not_depend_on_its_neighbours():
    logits = torch.randn(6, 300)
    ways = [Decoding(temperature=t, top_p=p, seed=7) for t in (0.0, 0.7, 1.5) for p in (0.5, 1.0)]
    together = draw(logits, [Draw(w) for w in ways]).tolist()
    alone = [int(draw(logits[i : i + 1], [Draw(w)])) for i, w in enumerate(ways)]
    assert together == alone


def test_the_same_seed_draws_the_same_and_another_does_not():
    logits = torch.zeros(1, 1000)

    def ten(seed):
        way = Draw(Decoding(temperature=1.0, seed=seed))
        return [int(draw(logits, [way])) for _ in range(10)]

    assert ten(3) == ten(3) != ten(4)
    assert ten(None) != ten(None)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.8), (2.0, 0.6)])
def test_frequencies_are_the_probabilities(temperature, top_p):
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
    expected = torch.softmax(logits / temperature, -1)[None]
    expected = nucleus(expected, torch.tensor([top_p]))[0]
    expected = expected / expected.sum()
    count = 4000
    way = Draw(Decoding(temperature=temperature, top_p=top_p, seed=0))
    drawn = torch.tensor([int(draw(logits[None], [way])) for _ in range(count)])
    found = torch.bincount(drawn, minlength=5) / count
    assert (found - expected).abs().max() < 4 * (0.25 / count) ** 0.5
    assert found[expected == 0].sum() == 0


@pytest.mark.parametrize("size", [4, NUCLEUS - 1, 4 * NUCLEUS])
@pytest.mark.parametrize("top_p", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_nucleus_is_the_smallest_set_that_reaches_top_p(size, top_p):
    generator = torch.Generator().manual_seed(size)
    flat = torch.softmax(torch.randn(3, size, generator=generator), -1)
    kept = nucleus(flat, torch.full((3,), top_p))
    for row, full in zip(kept, flat, strict=True):
        ordered = full.sort(descending=True).values.double()
        needed = max(1, int((ordered.cumsum(0) - ordered < top_p).sum()))
        assert abs(int((row > 0).sum()) - needed) <= 1  # rounding at the very border
        assert bool((row[row > 0] >= full[row == 0].max()).all()) if (row == 0).any() else True


def test_extreme_temperatures_stay_finite():
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    for temperature in (1e-300, 1e-6, 1e-4, 2.0):
        way = Draw(Decoding(temperature=temperature, seed=0))
        assert 0 <= int(draw(logits, [way])) < 3


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6), st.floats(0.2, 30),
    st.sampled_from([0, 1, 40, NUCLEUS - 1, NUCLEUS, 3 * NUCLEUS]),
    st.sampled_from([1.0, 0.95, 0.5, 0.0]), st.sampled_from([0.0, 0.01]), st.booleans(),
)  # fmt: skip
def test_a_draw_among_the_likeliest_is_that_among_all(seed, spread, top_k, top_p, min_p, masked):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(3, 4 * NUCLEUS, generator=generator)
    if masked:
        logits[:, torch.rand(4 * NUCLEUS, generator=generator) < 0.9] = float("-inf")
    ways = [
        Decoding(temperature=0.8, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed + i)
        for i in range(3)
    ]
    found = draw(logits, [Draw(w) for w in ways])
    keys = torch.tensor([Draw(w).next_key() for w in ways], dtype=torch.int32)
    draws = [Draw(w) for w in ways]
    whole = _among_all(_tempered(logits, draws), keys, _Limits.of(draws, logits.device))
    assert found.tolist() == whole.tolist()
    assert bool(logits.gather(1, found[:, None]).isfinite().all())


def test_exponential_numbers_are_spread_as_they_should_be():
    keys = torch.tensor([Draw(Decoding(temperature=1, seed=i)).next_key() for i in range(64)])
    found = exponentials(keys.int(), torch.arange(4096, dtype=torch.int32)[None]).double()
    assert abs(float(found.mean()) - 1) < 0.01 and abs(float(found.var()) - 1) < 0.03
    uniform = (-(-found).expm1()).flatten().sort().values
    steps = (torch.arange(uniform.numel()) + 0.5) / uniform.numel()
    assert float((uniform - steps).abs().max()) < 1.63 / uniform.numel() ** 0.5  # Kolmogorov, p = 0.01
    for other in (found.roll(1, 0), found.roll(1, 1)):  # the next request, the next token
        together = torch.corrcoef(torch.stack([found.flatten(), other.flatten()]))
        assert abs(float(together[0, 1])) < 0.01


def test_tokens_of_an_answer_are_drawn_apart():
    way = Draw(Decoding(temperature=1.0, seed=1))
    keys = {way.next_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert Draw(Decoding(temperature=1.0, seed=2)).next_key() not in keys
