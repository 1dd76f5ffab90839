"""Penalties, what is told with an answer, and answers of a given shape, against plain computations."""

from __future__ import annotations

import json
import re

import pytest
import torch

from rung.engine import GenerationRequest
from rung.engine.constraint import ConstraintError
from rung.engine.request import derive_seed
from rung.engine.sampler import Draw, adjust, draw, narrow, tell
from rung.errors import ConfigError
from rung.types import Decoding, Prompt
from tests.engine.world import METHODS, engine_of, tiny_llama

PROMPT = tuple(range(40, 75))
NAMES = ("base", *METHODS)


def asked(name="base", count=10, ids=PROMPT, *, decoding=None, **fields):
    return GenerationRequest(
        name, Prompt(tuple(ids)), Decoding(max_tokens=count, **(decoding or {})), stop_ids=(), **fields
    )


def logprobs_of(engine, name, ids):
    """(T, V) of what follows each of the ids, from one plain pass."""
    from rung.forward.trie import Sequence

    bank, slot = engine.bank, engine.models[name].slot
    with torch.inference_mode():
        trie = bank.trie([Sequence(tuple(ids), slot=slot)])
        hidden = bank.forward(trie)[torch.from_numpy(trie.rows[0])]
        return torch.log_softmax(bank.logits(hidden, [slot] * len(ids)), -1)


# --- penalties and cuts ---------------------------------------------------------------------------


def test_penalties_are_those_of_their_definitions():
    logits = torch.tensor([[2.0, -1.0, 0.5, 3.0]])
    way = Draw(
        Decoding(
            presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=2.0, logit_bias={2: 7.0}
        ),
        prompt=[1],
    )
    assert adjust(logits, [way]).tolist() == [[2.0, -2.0, 7.5, 3.0]]  # nothing is drawn yet
    for token in (3, 3, 0):
        way.take(token)
    expected = [[2 / 2 - 0.25 - 0.5, -2.0, 7.5, 3 / 2 - 2 * 0.25 - 0.5]]
    assert adjust(logits, [way]).tolist() == expected
    assert logits.tolist() == [[2.0, -1.0, 0.5, 3.0]]


def test_cuts_follow_each_other():
    probabilities = torch.tensor([[0.4, 0.3, 0.2, 0.1]])

    def left(top_k=0, top_p=1.0, min_p=0.0):
        cut = narrow(
            probabilities.clone(), torch.tensor([top_k]), torch.tensor([top_p]), torch.tensor([min_p])
        )
        return cut[0].nonzero()[:, 0].tolist()

    assert left() == [0, 1, 2, 3]
    assert left(top_k=2) == left(top_p=0.6) == left(min_p=0.7) == [0, 1]
    assert left(top_k=99) == [0, 1, 2, 3]
    assert left(top_k=2, top_p=0.55) == [0]  # 0.4 of 0.7 reaches it


def test_rows_of_every_kind_do_not_touch_each_other():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 300, generator=generator)
    ways = [
        Decoding(temperature=t, top_p=p, top_k=k, min_p=m, presence_penalty=f, logit_bias=b, seed=5)
        for t in (0.0, 1.2)
        for p, k, m in ((1.0, 0, 0.0), (0.6, 0, 0.0), (1.0, 7, 0.0), (1.0, 0, 0.2), (0.7, 9, 0.1))
        for f, b in ((0.0, {}), (1.5, {}), (0.0, {3: 5.0}), (0.5, {4: -3.0}))
    ]
    together = draw(logits, [Draw(w) for w in ways]).tolist()
    assert together == [int(draw(logits[i : i + 1], [Draw(w)])) for i, w in enumerate(ways)]


def test_penalties_and_bias_change_answers(engine):
    plain = engine.generate([asked(count=30)])[0].ids
    fewer = engine.generate([asked(count=30, decoding={"frequency_penalty": 2.0})])[0].ids
    assert len(set(fewer)) > len(set(plain))
    biased = engine.generate([asked(decoding={"logit_bias": {7: 100.0}})])[0].ids
    assert set(biased) == {7}
    with pytest.raises(ConfigError, match="logit_bias"):
        engine.submit(asked(decoding={"logit_bias": {10**6: 1.0}}))


def test_seeds_of_several_answers_are_apart():
    assert derive_seed(5, 0) == 5
    assert derive_seed(None, 3) is None
    many = {derive_seed(s, i) for s in range(50) for i in range(50)}
    assert len(many) == 50 * 50
    assert all(0 <= s < 2**63 for s in many)


# --- log-probabilities -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_told_of_drawn_tokens(engine, name):
    answer = engine.generate([asked(name, logprobs=4, decoding={"temperature": 1.0, "seed": 2})])[0]
    plain = logprobs_of(engine, name, PROMPT + answer.ids)[len(PROMPT) - 1 :]
    assert [t.id for t in answer.tokens] == list(answer.ids)
    for token, row in zip(answer.tokens, plain, strict=False):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
        assert [v for _, v in token.top] == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)


def test_greedy_is_exactly_the_largest(engine):
    """What lm-evaluation-harness compares, by equality."""
    for name in NAMES:
        for token in engine.generate([asked(name, 20, logprobs=1)])[0].tokens:
            assert token.logprob == token.top[0][1] == max(v for _, v in token.top)
    logits = torch.randn(64, 1000) * 30
    for (drawn, top), best in zip(tell(logits, logits.argmax(-1), [3] * 64), logits, strict=True):
        assert drawn == top[0][1]
        assert top[0][0] == int(best.argmax())


def test_told_does_not_change_the_answer(engine):
    ways = [{}, {"temperature": 1.0, "seed": 1}]
    for way in ways:
        plain, told = engine.generate([asked(decoding=way), asked(decoding=way, logprobs=20)])
        assert plain.ids == told.ids
        assert plain.tokens == ()


@pytest.mark.parametrize("name", NAMES)
def test_told_of_the_prompt(engine, name):
    ids = tuple((7 * i) % 258 for i in range(300))  # more than one slice
    request = asked(name, 0, ids, prompt_logprobs=2)
    answer = engine.generate([request, asked(name, 5, ids[:50])])[0]
    assert (answer.ids, answer.finish_reason) == ((), "length")
    assert [t.id for t in answer.prompt] == list(ids)
    assert answer.prompt[0].logprob is None
    plain = logprobs_of(engine, name, ids)
    for token, row in zip(answer.prompt[1:], plain, strict=False):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-3)
        assert token.top[0][1] == pytest.approx(float(row.max()), abs=1e-3)


def test_told_of_prompt_and_answer(engine):
    answer = engine.generate([asked(count=3, logprobs=0, prompt_logprobs=0)])[0]
    assert len(answer.prompt) == len(PROMPT)
    assert len(answer.tokens) == 3
    assert all(t.top == () for t in (*answer.prompt, *answer.tokens))


# --- shape ------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["ok", "n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("way", [{}, {"temperature": 1.0, "seed": 3}])
def test_answers_have_the_shape(engine, way):
    made = {
        "json_schema": engine.constraint("base", "json_schema", SCHEMA),
        "regex": engine.constraint("base", "regex", r"[a-c]{3}-\d{2}"),
        "choice": engine.constraint("base", "choice", ["yes", "no", "née"]),
    }
    requests = [asked(n, 60, constraint=c, decoding=way) for n in NAMES for c in made.values()]
    answers = engine.generate([*requests, asked(count=60, decoding=way)])
    assert answers[-1] == engine.generate([asked(count=60, decoding=way)])[0]
    for i in range(len(NAMES)):
        schema, pattern, choice = answers[3 * i : 3 * i + 3]
        if schema.finish_reason == "stop":  # a random model can fill 60 tokens with blanks
            value = json.loads(schema.text)
            assert isinstance(value["ok"], bool)
            assert 0 <= value["n"] <= 99
        assert re.fullmatch(r"[a-c]{3}-\d{2}", pattern.text)
        assert choice.text in ("yes", "no", "née")
        assert pattern.finish_reason == choice.finish_reason == "stop"
    alone = [engine.generate([r])[0] for r in requests]
    assert alone == answers[:-1]


def test_a_stop_token_may_come_only_when_the_shape_is_complete():
    engine = engine_of(tiny_llama(), ())
    made = engine.constraint("base", "regex", "(ab)+")
    end = engine.models["base"].stop_ids[0]
    way = Decoding(max_tokens=9, logit_bias={end: 100.0})
    answer = engine.generate([GenerationRequest("base", Prompt(tuple(PROMPT)), way, constraint=made)])[
        0
    ]
    assert (answer.text, answer.finish_reason) == ("ab", "stop")


def test_a_constraint_that_breaks_fails_alone(engine, monkeypatch):
    request = asked(constraint=engine.constraint("base", "regex", "[ab]{20}"))
    broken, fine = engine.submit(request), engine.submit(request)
    engine.step()
    draws = {id(r.generation): r.draw for r in engine.scheduler.running}

    def fault(token):
        raise ConstraintError("too much work")

    monkeypatch.setattr(draws[id(broken)], "take", fault)
    while engine.step():
        pass
    with pytest.raises(ConstraintError, match="too much work"):
        broken.result(0)
    assert fine.result(0) == engine.generate([request])[0]
