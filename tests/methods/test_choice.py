"""Choosing among ways to ask."""

from __future__ import annotations

import pytest

from rung.data.conversation import Conversation
from rung.errors import Interrupted, MethodMisfit
from rung.evals.measure import Measured
from rung.methods import choice
from rung.types import Example
from tests.methods.asking import answering, row, rows, study


class Says(Conversation):
    def __init__(self, word):
        self.word = word

    def messages(self, messages):
        return [{"role": "system", "content": self.word}, *messages]


def candidates(*names):
    return [choice.Candidate(name, Says(name)) for name in names]


def right_with(word):
    """Right where the system message is that word, else always 'no', which is right half the time."""

    def answer(messages, example):
        right = example.messages[-1]["content"]
        return right if messages[0]["content"] == word else "no"

    return answer


def test_the_best_is_found_and_the_clearly_worse_are_dropped_early(tmp_path, monkeypatch):
    made = study(tmp_path, validation=rows(96, "validation"))
    asked = answering(monkeypatch, right_with("b"))
    race = choice.Race(made, made.validation)
    best = race.best(candidates("a", "b", "c"))
    assert best.name == "b"
    counts = {name: sum(len(m) for n, m in asked if n == name) for name in "abc"}
    assert counts == {"a": 32, "b": 96, "c": 32}
    metrics = race.metrics(best)
    assert metrics["choice"] == "b"
    assert metrics["choice_accuracy of b"]["value"] == 1 and metrics["choice_accuracy of b"]["n"] == 96
    figure = metrics["choice_accuracy of a"]
    assert figure["n"] == 32 and figure["low"] < figure["value"] == 0.5 < figure["high"]


def test_nobody_is_asked_the_same_twice(tmp_path, monkeypatch):
    made = study(tmp_path)
    asked = answering(monkeypatch, right_with("b"))
    race = choice.Race(made, made.validation)
    both = candidates("a", "b")
    race.best(both)
    race.best([*both, *candidates("c")])
    assert [name for name, _ in asked] == ["a", "b", "c"]


def test_among_equals_the_first_stays(tmp_path, monkeypatch):
    made = study(tmp_path)
    answering(monkeypatch, right_with("nobody"))
    assert choice.Race(made, made.validation).best(candidates("a", "b")).name == "a"


def test_where_less_is_better_the_least_is_the_best(tmp_path, monkeypatch):
    made = study(tmp_path, validation=rows(96, "validation"))
    monkeypatch.setattr(Measured, "lower", property(lambda self: True))
    asked = answering(monkeypatch, right_with("b"))
    assert choice.Race(made, made.validation).best(candidates("b", "a", "c")).name == "a"
    assert sum(len(m) for name, m in asked if name == "b") == 32  # clearly worse by then


def test_a_stop_is_passed_on(tmp_path, monkeypatch):
    made = study(tmp_path, stopping=lambda: True)
    answering(monkeypatch, right_with("a"))
    with pytest.raises(Interrupted):
        choice.Race(made, made.validation).best(candidates("a", "b"))


def test_a_run_that_goes_on_does_not_ask_again(tmp_path, monkeypatch):
    stops = iter([False, True])
    made = study(tmp_path, stopping=lambda: next(stops, False))
    asked = answering(monkeypatch, right_with("b"))
    both = candidates("a", "b")
    with pytest.raises(Interrupted):
        choice.Race(made, made.validation).best(both)
    with (tmp_path / choice.KEPT).open("a") as file:
        file.write('\n{"key": "cut')  # a crash while the next line was written
    race = choice.Race(made, made.validation)
    assert race.best(both).name == "b"
    assert [name for name, _ in asked] == ["a", "b"]
    fresh = choice.Race(study(tmp_path / "other"), made.validation)
    assert fresh.best(both).name == "b" and fresh.scores["a"].value == race.scores["a"].value
    longer = [*made.validation[:-1], row("another", "no")]
    choice.Race(made, longer).best(both)
    assert len(asked) == 6  # other rows are other questions


@pytest.mark.parametrize(
    ("one", "other", "worse"),
    [
        ([0.0] * 16, [1.0] * 16, True),
        ([1.0] * 16, [0.0] * 16, False),
        ([1.0, 0.0] * 8, [0.0, 1.0] * 8, False),
        ([0.0] + [1.0] * 31, [1.0] * 32, False),
        ([0.0] * 8 + [1.0] * 24, [1.0] * 32, True),
    ],
)
def test_only_more_than_chance_is_clearly_worse(one, other, worse):
    assert choice.clearly_worse(one, other) is worse


def test_rows_are_those_of_validation_in_an_order_by_seed(tmp_path):
    first, train = choice.rows_to_choose_by(study(tmp_path), 10)
    again, _ = choice.rows_to_choose_by(study(tmp_path), 10)
    other, _ = choice.rows_to_choose_by(study(tmp_path, seed=1), 10)
    assert first == again != other and len(first) == 10 and len(train) == 60
    assert all(e.origin.startswith("validation") for e in first)


def test_without_validation_training_rows_are_set_aside(tmp_path):
    made = study(tmp_path, validation=[])
    chosen, train = choice.rows_to_choose_by(made, 100)
    assert len(chosen) == 12 and len(train) == 48 and not set(map(id, chosen)) & set(map(id, train))
    assert "12 training rows are set aside" in made.notes[0]
    with pytest.raises(MethodMisfit, match="too few rows"):
        choice.rows_to_choose_by(study(tmp_path, train=rows(3, "train"), validation=[]), 100)


def test_rows_that_no_prompt_could_hold_are_left_out(tmp_path):
    made = study(tmp_path, validation=[row("long " * 200, "no"), *rows(5, "validation")], context=256)
    chosen, _ = choice.rows_to_choose_by(made, 100)
    assert len(chosen) == 5


def test_labelled_texts_are_questions_too(tmp_path):
    texts = [Example(text=f"text {i}", label="no", origin=str(i)) for i in range(4)]
    chosen, _ = choice.rows_to_choose_by(study(tmp_path, validation=texts), 10)
    assert sorted(m["content"] for e in chosen for m in e.messages)[-4:] == [
        f"text {i}" for i in range(4)
    ]
    assert choice.conversations([Example(text="a tale")]) == []


def test_room_counts_tokens_and_guesses_characters(tmp_path):
    made = study(tmp_path, context=300)
    chosen, _ = choice.rows_to_choose_by(made, 10)
    room = choice.Room.of(made, chosen)
    assert room.tokens == 300 - 16 and 0 < room.characters < 284
    assert room.holds(made, Conversation(), chosen)
    assert not room.holds(made, Says("long " * 60), chosen)
