"""Drafts from what was said before: answers stay what they are, in fewer steps."""

from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.engine.ngram_speculation import MAX_PAUSE, NGRAM, NgramSpeculation, following
from rung.engine.queues.generate import GenerateQueue
from rung.engine.scheduler import MAX_DRAFTING
from tests.engine.world import NAMES, asked, engine_of, text, tiny_llama
from tests.forward.test_compiled import compiled_of, compiles


@given(
    st.lists(st.integers(0, 2) | st.sampled_from([256, 65536, 1 << 24]), max_size=40), st.integers(0, 8)
)
def test_the_latest_earlier_place(ids, most):
    """Against looking at every place; the ids share bytes across the borders of tokens."""
    expected = []
    for at in range(len(ids) - NGRAM):
        if ids[at : at + NGRAM] == ids[-NGRAM:]:
            expected = (ids[at + NGRAM :] * 8)[:most]
    assert following(ids, most) == expected


def test_wrong_drafts_come_later_and_later():
    one, ids = NgramSpeculation(), [1, 2, 3, 4] * 8
    gaps, since = [], 0
    for _ in range(200):
        if one.draft(ids, 4):
            one.verified(0)
            gaps.append(since)
            since = 0
        else:
            since += 1
    assert gaps[:5] == [0, 2, 4, 8, 16]
    assert max(gaps) == MAX_PAUSE
    one._wait = 0
    assert one.draft(ids, 4)
    one.verified(2)
    assert one.draft(ids, 4)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=compiles)])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("bias", [{}, {5: 100.0}])
def test_answers_are_the_same_in_fewer_steps(temperature, bias, compiled, monkeypatch):
    """Every kind of adapter, greedy and seeded, alone and two together."""
    requests = [
        asked(name, text(0, 12) * 4, 60, temperature=temperature, seed=i, logit_bias=bias)
        for i, name in enumerate(NAMES)
    ]
    answers, steps = {}, {}
    for most in (0, MAX_DRAFTING):
        engine = engine_of(tiny_llama())
        engine.scheduler.max_drafting = most
        if compiled:
            engine.bank.compiled = compiled_of(engine.bank)
        runner = engine.scheduler.runner
        monkeypatch.setattr(runner, "decode", Mock(side_effect=runner.decode))
        monkeypatch.setattr(runner, "read", Mock(side_effect=runner.read))
        answers[most] = [engine.generate([r])[0] for r in requests]
        answers[most] += engine.generate(requests[:2])
        steps[most] = runner.decode.call_count + runner.read.call_count
    assert answers[0] == answers[MAX_DRAFTING]
    if bias:  # the answer repeats itself
        assert steps[MAX_DRAFTING] < 0.4 * steps[0]


def test_not_where_many_decode(monkeypatch):
    engine = engine_of(tiny_llama(), ())
    monkeypatch.setattr(GenerateQueue, "_verify", lambda *a: pytest.fail("a draft was read"))
    engine.generate([asked("base", text(0, 6) * 6, 40)] * (MAX_DRAFTING + 1))
