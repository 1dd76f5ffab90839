"""The figures of a base's card against what they claim to be, on a tiny base with byte tokens."""

from __future__ import annotations

import math
import re
from types import SimpleNamespace

import pytest

from tests.engine.world import tiny_llama
from tests.tokens import tiny_tokenizer

CONTEXT = 1024


def subject_of(context: int = CONTEXT):
    from rung.data import Template
    from rung.evals.basecard import Subject
    from rung.forward.bank import Bank
    from rung.types import BaseInfo

    model = tiny_llama(max_position_embeddings=context)
    info = BaseInfo("tiny/base", "tiny", "", "d" * 64, "apache-2.0", "permissive", "Nobody")
    return Subject(info, Bank(model), Template.of(tiny_tokenizer()), 0.5, "float32")


@pytest.fixture(scope="module")
def subject():
    return subject_of()


@pytest.fixture(scope="module")
def card(subject):
    from rung.evals.basecard import study

    return study(subject, quick=True)


@pytest.fixture(scope="module")
def model():
    """The same weights, as transformers runs them."""
    return tiny_llama(max_position_embeddings=CONTEXT)


def nats(model, ids, start):
    """The surprise of ids[start:] in nats."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -sum(float(logits[i - 1, ids[i]]) for i in range(start, len(ids)))


# --- reading --------------------------------------------------------------------------------------


def test_perplexity_is_that_of_transformers(card, model):
    from rung.evals.basecard.material import material

    texts = [p.text for p in material().passages]
    ids = [tiny_tokenizer().encode(text, add_special_tokens=False) for text in texts]
    surprise = sum(nats(model, row, 1) for row in ids)
    tokens = sum(len(row) - 1 for row in ids)
    size = sum(
        len(text.encode()) - 1 for text in texts
    )  # a token is a byte; the first is not predicted
    found = card["reading"]
    assert found["tokens"] == tokens
    assert found["perplexity"] == pytest.approx(math.exp(surprise / tokens), rel=1e-4)
    assert found["bits_per_byte"] == pytest.approx(surprise / math.log(2) / size, rel=1e-4)
    assert [s["style"] for s in found["styles"]] == [p.style for p in material().passages]


def test_more_context_predicts_the_same_tokens(card, model):
    from rung.evals.basecard.material import material
    from rung.evals.basecard.reading import SPAN, SPANS

    text = "\n\n".join(p.text for p in material().passages)
    ids = tiny_tokenizer().encode(text, add_special_tokens=False)
    for row in card["reading"]["by_context"][:2]:
        n, spans = row["context"], range(SPANS[0])
        starts = [len(ids) - SPAN * (i + 1) for i in spans]
        surprise = sum(nats(model, ids[s - n : s + SPAN], n) for s in starts)
        assert row["perplexity"] == pytest.approx(math.exp(surprise / SPAN / len(spans)), rel=1e-4)
    assert [row["context"] for row in card["reading"]["by_context"]] == [8, 32, 128, 512]


def test_prompt_and_answer_are_cut_where_the_prompt_ends(subject):
    item = subject.item("One and", ["two", "three"])
    assert subject.tokenizer.decode(list(item.prompt)) == "One and"
    assert [subject.tokenizer.decode(list(a)) for a in item.answers] == [" two", " three"]


# --- recall ---------------------------------------------------------------------------------------


def test_every_question_can_be_answered_from_its_context_at_its_depth(subject):
    from rung.evals.basecard.recall import DEPTHS, questions

    items, answers = questions(subject, 512, seed=1)
    assert len(items) == len(answers) == len(DEPTHS)
    for depth, item, answer in zip(DEPTHS, items, answers, strict=True):
        context, _, asked = subject.tokenizer.decode(list(item.prompt)).rpartition("\n\nQuestion: ")
        place = re.search(r"the (\w+)\?", asked)[1]
        choices = [subject.tokenizer.decode(list(a)).strip() for a in item.answers]
        fact = f"The password of the {place} is {choices[answer]}."
        assert context.count(fact) == 1 and sorted(choices) == sorted(set(choices))
        assert context.index(fact) / (len(context) - len(fact)) == pytest.approx(depth, abs=0.2)
        assert all(f"is {other}." in context for other in choices)  # the wrong ones are hidden too
        assert abs(len(subject.encode(context)) - 512) < 100
    assert questions(subject, 512, seed=1) == (items, answers) != questions(subject, 512, seed=2)


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "always-first"])
def test_recall_tells_a_reader_from_a_guesser(subject, monkeypatch, reads):
    from rung.evals.basecard import recall

    def score(bank, slot, items):
        rows = []
        for item in items:
            text = subject.tokenizer.decode(list(item.prompt))
            place = re.findall(r"of the (\w+)", text)[-1]
            right = re.search(rf"of the {place} is (\w+)\.", text)[1]
            words = [subject.tokenizer.decode(list(a)).strip() for a in item.answers]
            rows.append([float(word == right) if reads else -float(i) for i, word in enumerate(words)])
        return rows

    monkeypatch.setattr(recall, "score", score)
    found = recall.recall(subject, False, lambda share: None)
    assert found["asked"] == 30 and found["chance"] == 0.2  # only 512 tokens fit into 1,024 with bytes
    assert {c["length"] for c in found["cells"]} == {512}
    assert found["found"] == 1 if reads else 0.05 < found["found"] < 0.5
    assert found["low"] - 1e-9 <= found["found"] <= found["high"] + 1e-9


# --- few-shot gain and variety --------------------------------------------------------------------


def test_shown_examples_are_even_and_never_asked():
    from rung.evals.basecard.material import material
    from rung.evals.basecard.shots import COUNTS, examples

    task = material().shots
    asked = [thing for things in task.asked.values() for thing in things]
    shown = [thing for things in task.shown.values() for thing in things]
    assert len(set(asked)) == len(asked) and not {*asked} & {*shown}
    assert tuple(task.asked) == tuple(task.shown) == task.kinds
    for count in COUNTS:
        kinds = [kind for _, kind in examples(count)]
        assert len(kinds) == count
        assert max(map(kinds.count, task.kinds)) - min(map(kinds.count, task.kinds)) <= 1
        assert examples(count) == examples(max(COUNTS))[:count]


def test_distinct_counts_ngrams_of_words():
    from rung.evals.basecard.variety import distinct

    assert distinct(["a b a b"], 1) == 2 / 4
    assert distinct(["a b a b"], 2) == 2 / 3  # ab ba ab
    assert distinct(["a b", "a c"], 2) == 1.0  # none across texts
    assert distinct(["a"], 2) == 0.0


def test_self_bleu_is_one_for_copies_and_nothing_for_strangers():
    from rung.evals.basecard.variety import self_bleu

    assert self_bleu(["the cat sat on the mat"] * 3) == pytest.approx(1)
    assert self_bleu(["one two three four", "five six seven eight"]) == pytest.approx(0, abs=1e-6)
    some = self_bleu(["the cat sat on the mat", "the cat sat on a chair", "dogs bark all night long"])
    assert 0.1 < some < 0.9
    with pytest.raises(ValueError, match="two at least"):
        self_bleu(["alone"])


# --- the whole ------------------------------------------------------------------------------------


def test_other_work_does_not_make_a_base_look_fast(monkeypatch):
    """The shorter of two generations took longer: 1e11 tokens a second stood on the card."""
    from rung.evals.basecard import speed

    clock = iter([0.0, 5.0, 5.0, 7.5])  # 5 s for one token of each stream, 2.5 s for nine
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    asked = SimpleNamespace(encode=lambda text: tuple(range(40)), generate=lambda prompts, how: None)
    assert speed._write(asked, 16, 8) == pytest.approx(2.5 * 8 / 25)
    clock = iter([0.0, 0.5, 0.5, 3.0])
    assert speed._write(asked, 16, 8) == pytest.approx(2.0)


def test_a_card_has_every_figure(card, subject):
    import json

    facts, speed = card["facts"], card["speed"]
    assert facts["parameters"] == sum(p.numel() for p in subject.bank.model.parameters())
    assert facts["context"] == CONTEXT and facts["licence_class"] == "permissive"
    assert facts["weights_bytes"] == facts["weights_bytes_float32"] and facts["load_seconds"] == 0.5
    assert speed["read_tokens"] == 256 and speed["peak_bytes"] > 50e6
    for key in ("read_per_second", "write_per_second", "write_per_second_streams"):
        assert 1 < speed[key] < 1e8
    assert [c["shots"] for c in card["shots"]["counts"]] == [0, 1, 4, 8]
    assert all(c["low"] - 1e-9 <= c["accuracy"] <= c["high"] + 1e-9 for c in card["shots"]["counts"])
    heat = card["variety"]["temperatures"]
    assert [t["temperature"] for t in heat] == [0.3, 0.7, 1.0]
    assert all(0 <= t[k] <= 1 for t in heat for k in ("distinct_1", "distinct_2", "self_bleu"))
    assert json.loads(json.dumps(card)) == card and card["quick"] and card["seconds"] > 0


def test_a_page_asks_for_nothing_outside(card, tmp_path):
    from rung.evals.basecard import write_page

    path = tmp_path / "new" / "card.html"
    write_page(card, path)
    page = path.read_text()
    assert (
        page.count("<svg") == 5 and "tiny/base" in page and "apache-2.0 (permissive) by Nobody" in page
    )
    assert not re.search(r"https?:|<script|<link|@import|src=", page)
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_names_are_text_on_the_page(card, tmp_path):
    from rung.evals.basecard import write_page

    base = {**card["base"], "name": "<script>alert(1)</script>"}
    write_page({**card, "base": base}, tmp_path / "card.html")
    assert "<script>" not in (tmp_path / "card.html").read_text()


def test_a_short_context_leaves_parts_out_and_says_so():
    from rung.evals.basecard import says, study
    from rung.evals.basecard.page import render

    card = study(subject_of(128), quick=True)
    assert not card["recall"]["cells"] and [c["shots"] for c in card["shots"]["counts"]] == [0, 1]
    assert says("recall", card["recall"]) == [("facts found", "its context is too short to ask")]
    assert [row["context"] for row in card["reading"]["by_context"]] == [8, 32]
    assert render(card).count("<svg") == 4
