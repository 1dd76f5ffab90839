"""The KV cache against plain lists of numbers, lane by lane."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.engine.kv_cache import KVCache, LayerShape

SHAPES = [LayerShape(2, 3, 2), LayerShape(1, 2, 2), LayerShape(2, 3, 2)]
LANES = 4
POSITION = 4 * (2 * 5 + 1 * 4 + 2 * 5)  # bytes of float32


def cache_of(budget=1 << 20):
    return KVCache(SHAPES, torch.float32, torch.device("cpu"), LANES, budget)


def write(cache, lane, values):
    """Append positions whose every number is the value."""
    begin = int(cache.lengths[lane])
    at = torch.arange(begin, begin + len(values))
    lanes = torch.full_like(at, lane)
    column = torch.tensor(values)[:, None, None]
    for layer, s in enumerate(SHAPES):
        k = column.expand(-1, s.heads, s.k_width) + layer
        cache.write(layer, lanes, at, k, column.expand(-1, s.heads, s.v_width) - layer)
    cache.lengths[lane] = begin + len(values)


def check(cache, expected):
    assert cache.size == cache.lanes * cache.capacity * POSITION
    assert cache.position_bytes == POSITION
    for lane, values in expected.items():
        assert cache.lengths[lane] == len(values)
        whole = torch.zeros(cache.capacity)
        for layer in range(len(SHAPES)):
            for tensor, shift in ((cache.k[layer], layer), (cache.v[layer], -layer)):
                whole[: len(values)] = torch.tensor(values) + shift
                assert torch.equal(tensor[lane], whole[None, :, None].expand_as(tensor[lane]))


LANE = st.integers(0, LANES - 1)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), LANE, st.integers(1, 9)),
        st.tuples(st.just("move"), LANE, LANE),
        st.tuples(st.just("swap"), LANE, LANE),
        st.tuples(st.just("cut"), LANE, st.integers(0, 9)),
        st.tuples(st.just("clear"), LANE, LANE),
        st.tuples(st.just("copy"), LANE, LANE),
        st.tuples(st.just("resize"), st.integers(60, 80), LANE),
        st.tuples(st.just("shrink"), st.integers(0, 90), LANE),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS)
def test_lanes_hold_what_was_written_and_zeros_behind_it(actions):
    cache, expected = cache_of(), {lane: [] for lane in range(LANES)}
    cache.resize(LANES, 70)
    number = 1.0
    for action, a, b in actions:
        longest = max(map(len, expected.values()))
        if action == "write" and len(expected[a]) + b <= cache.capacity:
            values = [number + i for i in range(b)]
            number += b
            write(cache, a, values)
            expected[a] += values
        elif action == "move" and a != b:
            cache.move(a, b)
            expected[b] = list(expected[a])
        elif action == "swap" and a != b:
            cache.swap(a, b)
            expected[a], expected[b] = expected[b], expected[a]
        elif action == "cut":
            cache.cut(a, b)
            del expected[a][b:]
        elif action == "clear":
            cache.clear(a)
            expected[a] = []
        elif action == "copy" and a != b and len(expected[a] + expected[b]) <= cache.capacity:
            if expected[a]:
                cache.copy_in(b, cache.copy_out(a, 0, len(expected[a]), 4))
                expected[b] = expected[b] + expected[a]
        elif action == "resize" and a >= longest:
            cache.resize(LANES, a)
        elif action == "shrink":
            cache.shrink(LANES, max(a, longest))
        check(cache, expected)
    cache.reset()
    assert cache.size == 0 and not cache.lengths.any()


@given(st.integers(1, LANES), st.integers(1, 300), st.integers(1, LANES), st.integers(1, 300))
def test_a_size_fits_what_is_wanted_and_never_exceeds_the_budget(lanes, capacity, more, longer):
    budget = POSITION * 600
    cache = cache_of(budget)
    for wanted in ((lanes, capacity), (more, longer), (lanes, capacity)):
        size = cache.fitting_size(*wanted)
        if size is None:
            assert wanted[0] * wanted[1] * POSITION > budget
            continue
        assert size[0] >= wanted[0] and size[1] >= wanted[1] and size[0] <= LANES
        assert size[0] * size[1] * POSITION <= budget
        cache.resize(*size)
        assert cache.size <= budget
        assert cache.fitting_size(*wanted) == size  # what suffices stays as it is


def test_pages_are_copies():
    cache = cache_of()
    cache.resize(2, 64)
    write(cache, 0, [1.0, 2.0, 3.0, 4.0, 5.0])
    pages = cache.copy_out(0, 0, 5, 2)
    assert [p[0].shape[2] for p in pages] == [2, 2, 1]
    cache.clear(0)
    cache.copy_in(1, pages[1:])
    check(cache, {0: [], 1: [3.0, 4.0, 5.0]})
