"""What answers win: by rewards and judges, ties as halves, and at equal length."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.engine import ServedModel
from rung.errors import ConfigError, Interrupted
from rung.evals import metrics
from rung.evals.answers import Answers
from rung.evals.measure import measure
from rung.evals.metrics.base import Case
from rung.evals.predict import predict
from rung.rewards.referee import Referee
from rung.types import Example, Task
from tests.engine.world import engine_of, tiny_llama
from tests.models import tiny_adapter

TASK = Task("preference", "win_rate")


def pair(i: int, chosen: str = "a good answer", rejected: str = "bad") -> Example:
    ask = {"role": "user", "content": f"question {i}"}
    say = [{"role": "assistant", "content": text} for text in (chosen, rejected)]
    return Example(messages=(ask, say[0]), rejected=(ask, say[1]), origin=f"row {i}")


ROWS = [pair(i) for i in range(6)]


def scored(wins, own, other):
    found = [
        {"win": w, "length": float(a), "against": float(b)}
        for w, a, b in zip(wins, own, other, strict=True)
    ]
    return Answers(["x"] * len(found), found)


def test_wins_by_a_reward_count_equal_texts_scores_and_unscored_answers_as_ties():
    referee = Referee(judge="length:5-5", against="chosen")
    texts = ["abcde", "abcdefgh", "abc", "abcdef", "same", "  same\n"]
    others = ["abc", "abcde", "abcde", "abcdeg", "same", "same"]
    assert referee.wins(ROWS, texts, others) == [1.0, 0.0, 0.0, 0.5, 0.5, 0.5]
    assert referee.wins(ROWS, others, texts) == [0.0, 1.0, 1.0, 0.5, 0.5, 0.5]
    unscored = Referee(judge="length:5t", against="chosen")  # of tokens, which nobody counted
    assert unscored.wins(ROWS, texts, others) == [0.5] * 6


def test_a_judge_who_always_says_the_same_is_not_certain_of_it():
    from types import SimpleNamespace

    from rung.evals.intervals import wilson
    from rung.library.evaluation import Progress, _verdicts

    rows = [SimpleNamespace(name=name, answers=Answers(["x"] * 8)) for name in ("one", "two")]
    for won in (1.0, 0.0):
        judge = SimpleNamespace(compare=lambda asked, *texts, won=won: [won] * len(asked))
        (found,) = _verdicts(rows, [pair(i) for i in range(8)], judge, Progress())
        assert (found["low"], found["high"]) == pytest.approx(wilson(8 * won, 8))


def test_a_second_judge_and_repetition_stand_beside_what_was_won():
    engine = engine_of(tiny_llama(), ("lora",))
    referee = Referee(judge="length:1000-2000", second="length:0-1", against="chosen")
    rows = [pair(i, chosen="a b c a b c a b c") for i in range(4)]
    answers = predict(engine.bank, engine.models["lora"], rows, TASK, referee=referee)
    for noted in answers.scores or ():
        assert noted["second"] in (0.0, 0.5, 1.0)
        assert noted["other_repeats"] == pytest.approx(4 / 7)
    found = measure(answers, rows, TASK)
    assert found.more["other_repeats"] == pytest.approx(4 / 7)
    assert "win_rate_second_judge" in found.more
    alone = [{k: v for k, v in s.items() if k != "second"} for s in answers.scores or ()]
    without = dataclasses.replace(answers, scores=alone)
    assert "win_rate_second_judge" not in measure(without, rows, TASK).more
    with pytest.raises(ConfigError, match="second-judge"):
        measure(without, rows, Task("preference", "win_rate_second_judge"))


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 90), st.integers(0, 90)),
        min_size=1, max_size=30,
    )
)  # fmt: skip
def test_the_figure_at_equal_length_is_the_intercept_of_a_line(rows):
    wins, own, other = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    answers = scored(wins, own, other)
    found = measure(answers, [pair(i) for i in range(len(rows))], TASK)
    assert found.value == pytest.approx(wins.mean())
    apart = (own - other) / np.maximum(own + other, 1)
    expected = wins.mean()
    if apart.var() > 1e-8:
        slope, expected = np.polyfit(apart, wins, 1)
    if not 1e-10 < apart.var() <= 1e-8:
        assert found.more["win_rate_equal_length"] == pytest.approx(np.clip(expected, 0, 1), abs=1e-6)
    assert found.more["longer"] == pytest.approx(np.mean((np.sign(own - other) + 1) / 2))
    assert set(found.more) == {"win_rate_equal_length", "longer"}


def test_a_win_that_is_length_alone_is_gone_at_equal_length():
    own, other = [10, 30, 10, 30] * 10, [30, 10, 30, 10] * 10
    wins = [0.0, 1.0, 0.0, 1.0] * 10
    own += [50] * 40  # and more often longer than not
    other += [20] * 40
    wins += [1.0] * 40
    found = measure(scored(wins, own, other), [pair(i) for i in range(80)], TASK)
    assert found.value == 0.75
    assert found.more["win_rate_equal_length"] == pytest.approx(0.55, abs=0.06)


def test_the_base_ties_with_itself_and_is_asked_each_row_once(monkeypatch):
    engine = engine_of(tiny_llama(), ("lora",))
    asked = []
    drawn = Referee._drawn
    monkeypatch.setattr(
        Referee, "_drawn",
        lambda self, bank, m, rows, *a: (
            asked.append((m.name, len(rows))) or drawn(self, bank, m, rows, *a)
        ),
    )  # fmt: skip
    referee = Referee(judge="length:20", like=ROWS)
    base = engine.models["base"]
    referee.seat(engine.bank, base.template)
    with pytest.raises(ConfigError, match="--judge model:NAME"):
        predict(engine.bank, base, ROWS, TASK)
    found = measure(predict(engine.bank, base, ROWS, TASK, referee=referee), ROWS, TASK)
    assert found.value == 0.5 and set(found.items) == {0.5}
    answers = predict(engine.bank, engine.models["lora"], ROWS[:3], TASK, referee=referee)
    assert len(answers.scores) == 3
    assert asked == [("base", 6), ("base", 6), ("lora", 3)]
    told = measure(answers, ROWS[:3], TASK)
    assert 0 <= told.low <= told.value <= told.high <= 1


@pytest.mark.parametrize("against", ["chosen", "rejected"])
def test_replies_of_the_data_are_held_against(against):
    referee = Referee(judge="length:13-13", against=against)
    others = referee.opponents(ROWS, lambda left: pytest.fail("the base is not asked"))
    assert set(others) == {"a good answer" if against == "chosen" else "bad"}
    won = referee.wins(ROWS[:1], ["a good answer"], others[:1])
    assert won == ([0.5] if against == "chosen" else [1.0])


def test_a_judge_behind_an_api_sees_both_orders(monkeypatch):
    from rung.evals.judge import Judge

    referee = Referee(judge="http://127.0.0.1:9/v1", model="wise")
    assert referee._remote.model == "wise"
    seen = []

    def once(self, asked, first, second):
        seen.append((first, second))
        return "1" if len(first) > len(second) else "2" if first[0] == "b" else "tie"

    monkeypatch.setattr(Judge, "_once", once)
    assert referee.wins(ROWS[:3], ["longer", "b", "c"], ["bee", "f", "d"]) == [1.0, 0.5, 0.5]
    assert ("longer", "bee") in seen and ("bee", "longer") in seen


def test_faults_are_told_in_one_line():
    with pytest.raises(ConfigError, match="--judge: unknown reward 'lenght'.*length"):
        Referee(judge="lenght:3")
    with pytest.raises(Interrupted):
        Referee(judge="length:3").wins(ROWS, ["a"] * 6, ["b"] * 6, lambda: True)
    metric = metrics.get("win_rate")
    with pytest.raises(ConfigError, match="say --judge"):
        metric.statistics(Case(["x"], ["y"], None, TASK))


def test_rewards_of_models_are_asked_on_the_bank_that_is_seated(monkeypatch):
    from rung.rewards import scorers

    engine = engine_of(tiny_llama(), ())
    made = []

    class Known(scorers.Scorers):
        def __init__(self, bank, *args):
            made.append(bank)
            super().__init__(bank, *args)

        def __call__(self, name):
            return lambda talks: [float(len(t[-1]["content"])) for t in talks]

    monkeypatch.setattr(scorers, "Scorers", Known)
    referee = Referee(judge="model:judge")
    referee.seat(engine.bank, engine.models["base"].template)
    assert referee.wins(ROWS[:2], ["long", "b"], ["c", "bee"]) == [1.0, 0.0]
    assert made == [engine.bank]
    model = ServedModel("tuned", engine.bank.add(tiny_adapter(engine.bank, "lora")),
                        engine.models["base"].template)  # fmt: skip
    found = predict(engine.bank, model, ROWS, dataclasses.replace(TASK), referee=referee)
    assert all(s["win"] in (0.0, 0.5, 1.0) for s in found.scores)
