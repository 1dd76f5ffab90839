"""Asking models: by choice, by classifier, by generating, by reading."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from rung.data.conversation import Conversation
from rung.errors import DataError, Interrupted, RungError
from rung.evals.measure import measure
from rung.types import Example, Task
from tests.engine.world import engine_of, hf_greedy, tiny_llama

LABELS = ("no", "yes", "yes and no")
CHOICE = Task("classification", "accuracy", LABELS)


def example(i, reply):
    said = ({"role": "user", "content": f"what about {i}"}, {"role": "assistant", "content": reply})
    return Example(said, origin=f"row {i}")


EXAMPLES = [example(i, LABELS[i % 2]) for i in range(9)]


@pytest.fixture(scope="module")
def engine():
    return engine_of(tiny_llama())


@pytest.mark.parametrize("name", ["base", "lora", "prompt_tuning", "prefix_tuning"])
def test_labels_are_scored_as_replies(engine, name):
    import torch

    from rung.evals.predict import predict
    from rung.forward.trie import Sequence

    model = engine.models[name]
    found = predict(engine.bank, model, EXAMPLES, CHOICE)
    for e, scores, text in zip(EXAMPLES, found.scores, found.texts, strict=True):
        prompt = model.prompt(e.messages[:-1]).ids
        for label in LABELS:
            # "yes" begins "yes and no", so the end of turn counts too.
            whole = model.template.render(
                Example((*e.messages[:-1], {"role": "assistant", "content": label}))
            )
            trie = engine.bank.trie([Sequence(whole.ids, slot=model.slot)])
            with torch.no_grad():
                hidden = engine.bank.forward(trie)[trie.rows[0][len(prompt) - 1 : -1]]
                logits = engine.bank.logits(hidden, [model.slot] * len(hidden)).log_softmax(-1)
            expected = sum(logits[i, t].item() for i, t in enumerate(whole.ids[len(prompt) :]))
            assert scores[label] == pytest.approx(expected, abs=1e-4)
        assert text == max(scores, key=scores.get)
    result = measure(found, EXAMPLES, CHOICE)
    assert result.low <= result.value <= result.high and result.n == 9
    assert {"macro_f1", "accuracy_norm"} <= set(result.more) and len(result.confusion) == 3


def test_each_row_has_choices_of_its_own(engine):
    from rung.evals.predict import predict

    task = Task("multiple_choice", "accuracy_norm")
    offered = [tuple(f"{word} {i}" for word in ("a lake", "hill", "the moon")) for i in range(5)]
    examples = [replace(example(i, c[1]), choices=c) for i, c in enumerate(offered)]
    seen = []
    found = predict(
        engine.bank,
        engine.models["lora"],
        examples,
        task,
        progress=lambda done, n: seen.append((done, n)),
    )
    for e, c, scores, text in zip(examples, offered, found.scores, found.texts, strict=True):
        assert tuple(scores) == c and text == max(scores, key=scores.get)
        # The same as labels, which every row has alike.
        alone = predict(engine.bank, engine.models["lora"], [e], replace(CHOICE, labels=c))
        assert scores == pytest.approx(alone.scores[0], abs=1e-4)
    assert seen[-1] == (5, 5)
    right = [
        max(s, key=lambda w: s[w] / len(w)) == c[1] for s, c in zip(found.scores, offered, strict=True)
    ]
    result = measure(found, examples, task)
    assert result.value == sum(right) / 5 and result.confusion is None
    assert set(result.more) == {"accuracy"}


def test_generated_answers_are_those_of_transformers(engine):
    from rung.evals.predict import predict

    model = engine.models["base"]
    task = Task("generation", "rouge_l")
    seen = []
    found = predict(engine.bank, model, EXAMPLES, task, progress=lambda done, n: seen.append((done, n)))
    ids = model.prompt(EXAMPLES[3].messages[:-1]).ids
    plain = hf_greedy(tiny_llama(), ids, 16)
    ended = [i for i, t in enumerate(plain) if t in model.stop_ids]
    plain = plain[: ended[0]] if ended else plain
    assert found.texts[3].strip() == model.template.tokenizer.decode(plain).split("\n")[0].strip()
    assert seen[-1] == (9, 9) and found.completion_tokens > 0 and found.scores is None


@dataclass(frozen=True)
class Reasons(Conversation):
    max_tokens: int = 6
    samples: int = 3
    temperature: float = 1.0

    def answer(self, text):
        return f"so Yes. ({len(text)})"

    def vote(self, answers):
        assert len(answers) == self.samples
        return answers[-1]


def test_what_reasons_generates_and_its_label_is_read(engine):
    from rung.evals.predict import predict

    model = replace(engine.models["base"], conversation=Reasons())
    found = predict(engine.bank, model, EXAMPLES, CHOICE)
    assert found.texts == ["yes"] * 9 and found.scores is None
    assert measure(found, EXAMPLES, CHOICE).value == pytest.approx(4 / 9)


def test_a_classifier_answers_by_itself(engine):
    import torch

    from rung.evals.predict import predict

    class Longest:
        labels = ("no", "yes")

        def probabilities(self, backbone, slot, prompts):
            assert all(p.question.startswith("what about") and p.ids for p in prompts)
            return torch.tensor([[0.25, 0.75]] * len(prompts))

    model = replace(engine.models["base"], classifier=Longest())
    found = predict(engine.bank, model, EXAMPLES, CHOICE)
    assert found.texts == ["yes"] * 9 and found.scores[0]["yes"] == pytest.approx(-0.28768, abs=1e-4)


def test_perplexity_of_texts_longer_than_the_context(engine):
    import math

    from rung.evals.predict import predict

    task = Task("language_modelling", "perplexity")
    texts = [Example(text="some words " * 200, origin="long"), Example(text="short")]
    found = predict(engine.bank, engine.models["prefix_tuning"], texts, task)
    assert found.scores[0]["tokens"] > 512 and found.scores[1]["tokens"] >= 1
    result = measure(found, texts, task)
    total = sum(s["log_likelihood"] for s in found.scores), sum(s["tokens"] for s in found.scores)
    assert result.value == pytest.approx(math.exp(-total[0] / total[1])) and result.lower


def test_replies_can_be_scored_too(engine):
    from rung.evals.predict import predict

    found = predict(engine.bank, engine.models["lora"], EXAMPLES, Task("generation", "perplexity"))
    assert all(s["tokens"] >= 2 for s in found.scores)  # the reply and its end of turn


def test_the_rows_replies_are_scored_and_nothing_between_them(engine):
    import torch

    from rung.evals.predict import predict
    from rung.methods.few_shot import Shots

    def turn(role, text, **more):
        return {"role": role, "content": text, **more}

    model, task = engine.models["base"], Task("generation", "perplexity")
    rows = [
        (turn("user", "one?"), turn("assistant", "yes"), turn("user", "a long way to the next"),
         turn("assistant", "no, none")),
        (turn("user", "one?"), turn("assistant", "<tool_call>f</tool_call>"),
         turn("user", "what it gave, in so many words", result=True), turn("assistant", "seven")),
        (turn("user", "a"), turn("assistant", "learnt"), turn("user", "b"),
         turn("assistant", "context alone", weight=0), turn("user", "c"), turn("assistant", "too")),
        (turn("user", "only"), turn("assistant", "one")),
    ]  # fmt: skip
    examples = [Example(row) for row in rows]
    found = predict(engine.bank, model, examples, task)
    with torch.no_grad():
        for row, scores in zip(rows, found.scores, strict=True):
            ids = model.template.render(Example(row)).ids
            logits = tiny_llama()(torch.tensor([ids])).logits[0].log_softmax(-1)
            own = [
                i
                for k, m in enumerate(row)
                if m["role"] == "assistant" and m.get("weight") != 0
                for i in range(len(model.template.prompt(row[:k])),
                               len(model.template.render(Example(row[: k + 1])).ids))
            ]  # fmt: skip
            assert scores["tokens"] == len(own)
            expected = sum(logits[i - 1, ids[i]].item() for i in own)
            assert scores["log_likelihood"] == pytest.approx(expected, abs=1e-3)
    # What an adapter shows in front is context, whose replies are none of the row's.
    shown = replace(model, conversation=Shots(examples=(rows[3], rows[0]), count=2))
    told = predict(engine.bank, shown, examples, task).scores
    assert [s["tokens"] for s in told] == [s["tokens"] for s in found.scores]
    assert all(a != b for a, b in zip(told, found.scores, strict=True))


def test_too_long_is_told_with_its_row(engine):
    from rung.evals.predict import predict

    rows = [
        *EXAMPLES,
        Example(({"role": "user", "content": "word " * 900}, EXAMPLES[0].messages[1]), origin="row x"),
    ]
    with pytest.raises(RungError, match="row x has .* tokens"):
        predict(engine.bank, engine.models["base"], rows, CHOICE)


@pytest.mark.parametrize("task", [CHOICE, Task("generation", "rouge_l")])
def test_it_stops_when_asked(engine, task):
    from rung.evals.predict import predict

    with pytest.raises(Interrupted):
        predict(engine.bank, engine.models["base"], EXAMPLES, task, stopping=lambda: True)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Yes.", "yes"), ("the answer is no!", "no"), ("yes and no", "yes and no"), ("maybe", "maybe"),
        ("either yes or no", "either yes or no"), ("I say: Yes and No, both", "yes and no"),
        ("nothing", "nothing"),
    ],
)  # fmt: skip
def test_labels_are_read_out_of_texts(text, label):
    from rung.evals.label_text import as_label

    assert as_label(text, LABELS) == label


def test_nothing_to_measure_by_is_told(engine):
    from rung.evals.predict import predict

    texts = [Example(text="plain", origin="notes.txt:1")]
    found = predict(engine.bank, engine.models["base"], texts, Task("language_modelling", "perplexity"))
    with pytest.raises(DataError, match="no reply.*notes.txt:1"):
        measure(found, texts, Task("generation", "rouge_l"))
    with pytest.raises(DataError, match="no items"):
        measure(replace(found, texts=[]), [], Task("generation", "rouge_l"))
