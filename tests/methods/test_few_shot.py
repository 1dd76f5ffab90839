"""Examples as earlier turns: which, how many, in what order."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

import pytest

from rung import methods
from rung.errors import ArtefactError, MethodMisfit
from rung.methods.few_shot import Shots, balanced
from rung.types import Task
from tests.methods.asking import again, answering, row, study

FEW = methods.get("few_shot")


def turns(text, reply):
    return ({"role": "user", "content": text}, {"role": "assistant", "content": reply})


def said(messages):
    return [m["content"] for m in messages]


def test_examples_stand_between_the_system_message_and_the_question():
    shots = Shots((turns("a", "1"), turns("b", "2")), 2)
    asked = [{"role": "system", "content": "S"}, {"role": "user", "content": "q"}]
    assert said(shots.messages(asked)) == ["S", "a", "1", "b", "2", "q"]
    assert said(shots.messages(asked[1:])) == ["a", "1", "b", "2", "q"]
    talk = [*asked, {"role": "assistant", "content": "r"}, {"role": "user", "content": "p"}]
    assert said(shots.messages(talk)) == ["S", "a", "1", "b", "2", "q", "r", "p"]


def test_the_nearest_stands_last_and_the_pool_fills_up():
    pool = (turns("rain in spring", "1"), turns("the red fox", "2"), turns("a red red fox runs", "3"))
    shots = Shots(pool, 2, nearest=True)
    assert said(shots.messages([{"role": "user", "content": "red fox runs"}])) == [
        "the red fox", "2", "a red red fox runs", "3", "red fox runs",
    ]  # fmt: skip
    assert said(shots.messages([{"role": "user", "content": "zebra"}]))[:4] == [
        "the red fox", "2", "rain in spring", "1",
    ]  # fmt: skip
    wordless = Shots((turns("?", "1"), turns("!", "2")), 1, nearest=True)
    assert said(wordless.messages([{"role": "user", "content": "..."}])) == ["?", "1", "..."]


def test_examples_with_calls_are_read_as_they_were_chosen():
    """Kept without `result`, what a tool gave was the question by which the nearest is found."""
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}

    def called(text, result):
        return (
            {"role": "user", "content": text, "tools": (tool,)},
            {"role": "assistant", "content": "<tool_call>...</tool_call>", "reasoning_content": "Hm."},
            {"role": "user", "content": result, "result": True, "name": "look"},
            {"role": "assistant", "content": "done"},
        )

    shots = Shots((called("the height of a hill", "rain"), called("rain today", "a hill")), 1, True)
    read = Shots.read(json.loads(json.dumps(asdict(shots))))
    assert read == shots
    asked = [{"role": "user", "content": "how high is the hill"}]
    assert said(read.messages(asked))[0] == "the height of a hill"


def test_examples_that_do_not_fit_are_left_out_the_farthest_first():
    shots = Shots((turns("aaaa", "1"), turns("bbbb", "2")), 2, characters=12)
    assert said(shots.messages([{"role": "user", "content": "q"}])) == [
        "aaaa", "1", "bbbb", "2", "q",
    ]  # fmt: skip
    assert said(shots.messages([{"role": "user", "content": "quite"}])) == ["bbbb", "2", "quite"]
    assert said(shots.messages([{"role": "user", "content": "q" * 30}])) == ["q" * 30]


def test_balanced_takes_of_each_reply_alike():
    many = [row(f"t{i}", "no" if i % 5 else "yes") for i in range(20)]
    assert Counter(e.messages[-1]["content"] for e in balanced(many, 6)) == {"no": 3, "yes": 3}
    assert len(balanced(many, 12)) == 12 and len(balanced(many[:3], 8)) == 3


def few(tmp_path, seed=0, **config):
    made = study(tmp_path, seed=seed)
    return FEW.fit(made, FEW.Config(**config)), made


def count_of(messages):
    return sum(m["role"] == "assistant" for m in messages)


def test_the_number_that_wins_is_taken(tmp_path, monkeypatch):
    asked = answering(monkeypatch, lambda m, e: e.messages[-1]["content"] if count_of(m) == 4 else "no")
    fitted, made = few(tmp_path, pick="random")
    assert fitted.metrics["choice"] == "4 random"
    assert [n for n, _ in asked] == ["1 random", "2 random", "4 random", "8 random"]
    conversation = fitted.adapter.conversation
    assert conversation.count == 4 == len(conversation.examples)
    assert again(fitted.adapter, "few_shot", made, tmp_path / "model") == conversation


def test_auto_finds_the_pick_first_and_then_the_number(tmp_path, monkeypatch):
    """Right when the last example is of the question's own number: only the nearest can be."""

    def answer(messages, example):
        number = example.messages[0]["content"].split()[-1]
        near = count_of(messages) and messages[-3]["content"].split()[-1] == number
        return example.messages[-1]["content"] if near else "no"

    asked = answering(monkeypatch, answer)
    fitted, _ = few(tmp_path)
    assert fitted.adapter.conversation.nearest and fitted.metrics["choice"] == "1 nearest"
    assert [n for n, _ in asked] == [
        "2 balanced", "2 nearest", "1 nearest", "4 nearest", "8 nearest",
    ]  # fmt: skip


def test_examples_are_training_rows_alone(tmp_path, monkeypatch):
    asked = answering(monkeypatch, lambda m, e: "no")
    fitted, made = few(tmp_path, pick="nearest", pool=20)
    for _, seen in asked:
        for messages in seen:
            earlier = [m["content"] for m in messages[:-1] if m["role"] == "user"]
            assert earlier and all(text.startswith("train") for text in earlier)
    assert len(fitted.adapter.conversation.examples) == 20
    # Without validation rows, those set aside to choose by are no examples either.
    alone = study(tmp_path, validation=[])
    asked.clear()
    FEW.fit(alone, FEW.Config(pick="nearest"))
    for _, seen in asked:
        for *earlier, last in seen:
            assert last["content"] not in [m["content"] for m in earlier]


def test_the_seed_decides_the_examples(tmp_path, monkeypatch):
    answering(monkeypatch, lambda m, e: "no")
    first, second = (few(tmp_path, pick="random")[0].adapter.conversation for _ in range(2))
    other = few(tmp_path, seed=1, pick="random")[0].adapter.conversation
    assert first == second and first.examples != other.examples


def test_what_does_not_fit_the_context_is_not_tried(tmp_path, monkeypatch):
    asked = answering(monkeypatch, lambda m, e: "no")
    made = study(tmp_path, context=220)
    fitted = FEW.fit(made, FEW.Config(pick="random"))
    assert [n for n, _ in asked] == ["1 random", "2 random"]
    assert "not tried" in made.notes[0] and "4 random, 8 random" in made.notes[0]
    kept = fitted.adapter.conversation
    assert kept.characters > 0
    long = [{"role": "user", "content": "x" * 150}]
    assert len(made.template.prompt(kept.messages(long))) <= 220
    with pytest.raises(MethodMisfit, match="not even one example"):
        FEW.fit(study(tmp_path, context=90), FEW.Config())


def test_tasks_that_it_cannot_do():
    assert "--user" in FEW.unsuited(Task("language_modelling", "perplexity"), FEW.Config())
    free = Task("generation", "rouge_l")
    assert FEW.unsuited(free, FEW.Config()) is None
    assert "labels" in FEW.unsuited(free, FEW.Config(pick="balanced"))
    with pytest.raises(ArtefactError, match="settings.json"):
        FEW.from_files({"examples": [[]], "count": 1, "characters": 0, "nearest": False}, {}, None)


def test_free_replies_are_shown_at_random_or_by_likeness(tmp_path, monkeypatch):
    asked = answering(monkeypatch, lambda m, e: e.messages[-1]["content"])
    free = [row(f"write line {i}", f"line number {i}") for i in range(40)]
    made = study(tmp_path, Task("generation", "rouge_l"), train=free[:30], validation=free[30:])
    FEW.fit(made, FEW.Config(shots=[2]))
    assert [n for n, _ in asked] == ["2 random", "2 nearest"]
