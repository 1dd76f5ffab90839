"""Reasons before the answer: the instruction, the answer read out, the vote."""

from __future__ import annotations

import pytest

from rung import methods
from rung.errors import ArtefactError, MethodMisfit
from rung.evals.metrics.parsing import number_match
from rung.methods.chain_of_thought import Reasoning, numbers
from rung.types import Task
from tests.methods.asking import YES_NO, again, answering, row, study

COT = methods.get("chain_of_thought")
LABELS = Reasoning("I", ("sarcastic", "not sarcastic"))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It mocks them.\nAnswer: sarcastic", "sarcastic"),
        ("It is plain. **Answer:** Not sarcastic.", "not sarcastic"),
        ("sarcastic? No.\nThe answer is: not sarcastic", "not sarcastic"),
        ("Answer: unsure. Thinking again.\nAnswer: sarcastic, as said", "sarcastic"),
        ("At first sarcastic, but in the end not sarcastic", "not sarcastic"),
        ("Answer:", ""),
        ("unsarcastically nothing", ""),
        ("", ""),
    ],
)
def test_labels_are_found(text, answer):
    assert LABELS.answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7\nAnswer: 7", "7"),
        ("Answer: $1,234.50 in all", "1,234.50"),
        ("It was 12, then 15.", "15"),
        ("The answer is -3.", "-3"),
        ("none", ""),
        ("Answer: .5", ".5"),
        ("Answer: $.75", ".75"),
        ("Answer: 1/2", "1/2"),
        ("Answer: 3e-4", "3e-4"),
        ("Answer: 2.5e3", "2.5e3"),
        ("Answer: 12 + 5 = 17", "17"),
        ("Answer: Each pays 3 * 4 = 12 dollars\n5 remain", "12"),
        ("Answer:\n\n7 = x", "7"),
    ],
)
def test_numbers_are_found(text, answer):
    assert Reasoning("I", numeric=True).answer(text) == answer
    assert not answer or number_match(answer, answer) == 1  # read as it is by the metric


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Because.\nFinal answer: **Paris**\nDone.", "Paris"),
        ("Just Paris", "Just Paris"),
        ("Réponse\nAnswer：巴黎", "巴黎"),
    ],
)
def test_free_answers_stand_behind_the_mark(text, answer):
    assert Reasoning("I").answer(text) == answer


def test_the_most_frequent_answer_wins():
    talk = Reasoning("I", samples=5)
    assert talk.vote(["b", "Paris ", "paris", "", ""]) == "Paris "
    assert (
        talk.vote(["b", "a"]) == "b" and talk.vote(["", "a", ""]) == "a" and talk.vote(["", ""]) == ""
    )


def test_the_instruction_stands_behind_the_last_question():
    asked = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert [m["content"] for m in Reasoning("I").messages(asked)] == ["a", "b", "c\n\nI"]
    assert asked[-1]["content"] == "c"


def test_numbers_are_told_from_words():
    assert numbers([row("q", "12"), row("q", "1,200.5"), row("q", "2 * 3 = 6\n#### 6")])
    assert numbers([row("q", ".5"), row("q", "3e-4"), row("q", "1 1/2"), row("q", "-3")])
    assert not numbers([row("q", "12"), row("q", "twelve")]) and not numbers([])


def test_the_instruction_that_wins_is_kept(tmp_path, monkeypatch):
    made = study(tmp_path / "run")
    asked = answering(
        monkeypatch,
        lambda m, e: (
            f"I think so. Answer: {e.messages[-1]['content'].upper()}"
            if "step by step" in m[-1]["content"]
            else "I cannot say"
        ),
    )
    fitted = COT.fit(made, COT.Config(samples=3, reasoning_tokens=64))
    kept = fitted.adapter.conversation
    assert (
        fitted.metrics["choice"] == "steps" and fitted.metrics["choice_accuracy of steps"]["value"] == 1
    )
    assert (kept.labels, kept.samples, kept.max_tokens, kept.numeric) == (("no", "yes"), 3, 64, False)
    assert "one of: no, yes" in asked[0][1][0][-1]["content"]
    assert all(len(seen) == 32 for _, seen in asked)
    assert again(fitted.adapter, "chain_of_thought", made, tmp_path / "model") == kept


def test_the_model_itself_is_asked_and_votes(tmp_path):
    """No stand-in: chains are drawn by the engine, and the same seed gives the same figures."""
    config = COT.Config(samples=3, reasoning_tokens=8, choose_rows=3, sample_temperature=1.5)
    first, second = (COT.fit(study(tmp_path / name), config) for name in ("one", "two"))
    assert first.metrics == second.metrics and first.metrics["choice_accuracy of brief"]["n"] == 3


def test_what_it_cannot_do():
    assert COT.unsuited(YES_NO, COT.Config(samples=5)) is None
    assert "vote" in COT.unsuited(Task("generation", "rouge_l"), COT.Config(samples=5))
    assert COT.unsuited(Task("generation", "rouge_l"), COT.Config()) is None
    assert COT.unsuited(Task("language_modelling", "perplexity"), COT.Config())
    with pytest.raises(ArtefactError, match="settings.json"):
        COT.from_files({"instruction": "I"}, {}, None)


def test_a_context_without_room_for_reasons(tmp_path):
    with pytest.raises(MethodMisfit, match="lower --reasoning-tokens"):
        COT.fit(study(tmp_path, context=128), COT.Config(reasoning_tokens=120))
