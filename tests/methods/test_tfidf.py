"""The baseline: labels and answers from counted words, kept without a pickle, served like any other."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest

from rung import methods
from rung.errors import ArtefactError, MethodMisfit
from rung.evals.ngrams import Ngrams, fit_labels, probabilities
from rung.methods import artefact
from rung.types import BaseInfo, Decoding, Prompt, Task
from tests.methods.asking import YES_NO, row, study

QA = Task("question_answering", "exact_match")
YES, NO = ("sunny", "warm", "kind", "bright"), ("rainy", "cold", "harsh", "dark")


def labelled(count: int, seed: int) -> list:
    draw = random.Random(seed)
    return [
        row(
            f"it was {draw.choice(YES if i % 2 else NO)} on day {draw.randrange(10**6)}",
            ("no", "yes")[i % 2],
        )
        for i in range(count)
    ]


def kept(adapter, made, folder: Path, name: str = "tfidf"):
    """The adapter as it comes back from its folder."""
    from rung.artefacts import folders

    method = methods.get(name)
    base = BaseInfo("tiny", "tiny", "/nowhere", "0")
    folders.write(
        folder,
        lambda at: artefact.save(
            at, adapter, made.bank, method, method.Config(), base, made.template, {}
        ),
    )
    folders.verify(folder)
    folders.inspect(folder)
    return artefact.load(folder, made.bank)[0]


def fitted(made):
    method = methods.get("tfidf")
    return method.fit(made, method.Config())


def test_labels_are_learned_and_come_back_from_disk(tmp_path):
    made = study(tmp_path / "run", train=labelled(80, 1), validation=labelled(30, 2))
    found = fitted(made)
    assert found.metrics["validation_accuracy"] == 1.0
    questions = ("a warm and bright day", "so cold and dark", "")
    asked = [Prompt((1,), ({"role": "user", "content": q},)) for q in questions]
    before = found.adapter.classifier.probabilities(made.bank, -1, asked)
    assert before.argmax(1).tolist()[:2] == [1, 0]
    assert np.allclose(before.sum(1), 1, atol=1e-6)
    again = kept(found.adapter, made, tmp_path / "model")
    assert np.allclose(before, again.classifier.probabilities(made.bank, -1, asked), atol=1e-6)
    names = {p.name for p in (tmp_path / "model").iterdir()}
    assert {"settings.json", "weights.safetensors"} <= names and not [n for n in names if "pkl" in n]


def test_a_script_without_blanks_has_features():
    texts = ["我今天很高兴", "他今天很难过"] * 20
    fit = fit_labels(
        Ngrams.of(texts), texts, ["good", "bad"] * 20, ["她很高兴", "我很难过"], ["good", "bad"]
    )
    assert fit.accuracy == 1.0


def test_where_words_say_nothing_the_most_frequent_label_is_given():
    draw = random.Random(0)
    texts = [f"{draw.random()}" for _ in range(300)]
    labels = ["rare" if draw.random() < 0.2 else "usual" for _ in texts]
    fit = fit_labels(Ngrams.of(texts[:200]), texts[:200], labels[:200], texts[200:], labels[200:])
    assert fit.accuracy >= fit.majority


def test_a_fit_whose_iterations_run_out_warns_nobody():
    draw = random.Random(1)
    texts = [" ".join(draw.choices(("lamp", "door", "chair", "table"), k=4)) for _ in range(400)]
    labels = [("no", "yes")[("lamp" in t) != ("door" in t)] for t in texts]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_labels(Ngrams.of(texts), texts, labels, texts[:50], labels[:50])


def test_many_labels_are_told_apart():
    texts = [f"please help me with matter{i % 120} at counter {i}" for i in range(1200)]
    labels = [f"matter_{i % 120}" for i in range(1200)]
    fit = fit_labels(Ngrams.of(texts), texts, labels, texts[:120], labels[:120])
    assert len(fit.labels) == 120 and fit.accuracy > 0.95


def test_the_order_of_rows_decides_nothing(tmp_path, monkeypatch):
    from rung.evals import ngrams
    from rung.methods import tfidf

    made = sorted(labelled(200, 1), key=lambda e: e.messages[-1]["content"])
    texts, labels = ([e.messages[i]["content"] for e in made] for i in (0, -1))
    monkeypatch.setattr(ngrams, "MAX_CHOOSE_ROWS", 50)  # fewer than the rows of one label
    fit = fit_labels(Ngrams.of(texts), texts, labels, texts, labels)
    assert fit.labels == ("no", "yes") and fit.accuracy == 1.0
    monkeypatch.setattr(tfidf, "MAX_CHOOSE_ROWS", 20)
    monkeypatch.setattr(tfidf, "MAX_ANSWERS", 80)
    found = fitted(study(tmp_path / "run", task=QA, train=made, validation=made))
    assert found.metrics["choice"] == "the nearest answer"
    assert set(found.adapter.remote.answers) == {"no", "yes"}


def test_a_label_that_no_row_to_choose_by_has_is_learned_in_the_end(monkeypatch):
    from rung.evals import ngrams

    texts, labels = ["a warm day"] * 60 + ["a cold night"], ["yes"] * 60 + ["no"]
    monkeypatch.setattr(ngrams, "MAX_CHOOSE_ROWS", 5)
    fit = fit_labels(Ngrams.of(texts), texts, labels, texts, labels)
    assert fit.accuracy == 1.0


def test_probabilities_of_two_labels_are_the_logistic_function():
    p = probabilities(np.array([[-1.5, 1.5], [0.0, 0.0]]))
    assert np.allclose(p[:, 1], [1 / (1 + np.exp(-1.5)), 0.5])


def test_open_answers_are_those_of_the_nearest_question(tmp_path):
    known = [row(f"What is the capital of {land}?", town) for land, town in CAPITALS.items()]
    held = [row(f"Tell me: what is the capital of {land}", town) for land, town in CAPITALS.items()]
    made = study(tmp_path / "run", task=QA, train=known, validation=held)
    found = fitted(made)
    assert found.metrics["choice"] == "the nearest answer"
    again = kept(found.adapter, made, tmp_path / "model")
    asked = [{"role": "user", "content": "the capital of Peru please"}]
    looked_up = [
        {"role": "assistant", "content": "look it up"},
        {"role": "user", "content": "What is the capital of Kenya?", "result": True},
    ]
    for turns in (asked, [*asked, *looked_up]):  # what a tool gave back is no question
        assert again.remote.ask(turns, Decoding()).text == "Lima"


CAPITALS = {"Peru": "Lima", "Kenya": "Nairobi", "Norway": "Oslo", "Japan": "Tokyo", "Chad": "N'Djamena"}


def test_the_most_frequent_answer_is_given_where_it_does_better(tmp_path):
    train = [row(f"question {i} of {i * 7}", "yes" if i % 4 else str(i)) for i in range(60)]
    held = [row(f"another {i}", "yes") for i in range(30)]
    assert fitted(study(tmp_path / "run", task=QA, train=train, validation=held)).metrics["choice"] == (
        "the most frequent answer"
    )


def test_it_is_asked_through_the_engine_like_any_model(tmp_path):
    from rung.engine import ServedModel
    from rung.evals.measure import measure
    from rung.evals.predict import predict

    held = labelled(20, 3)
    made = study(tmp_path / "run", train=labelled(80, 1), validation=labelled(30, 2))
    adapter = fitted(made).adapter
    model = ServedModel.of("tfidf", made.bank.add(adapter), made.template, adapter)
    answers = predict(made.bank, model, held, YES_NO)
    assert measure(answers, held, YES_NO).value == 1.0


def test_what_it_cannot_do_is_said(tmp_path):
    method = methods.get("tfidf")
    for kind, metric in (("language_modelling", "perplexity"), ("multiple_choice", "accuracy")):
        task = Task(kind, metric)
        assert method.unsuited(task, method.Config())
        with pytest.raises(MethodMisfit):
            fitted(study(tmp_path, task=task))


def test_a_damaged_folder_is_refused(tmp_path):
    made = study(tmp_path / "run", train=labelled(40, 1), validation=labelled(20, 2))
    method = methods.get("tfidf")
    settings, tensors = method.to_files(fitted(made).adapter, made.bank, method.Config())
    settings = json.loads(json.dumps(settings))
    method.from_files(settings, tensors, made.bank)
    for broken in ({**settings, "terms": {"words": []}}, {**settings, "labels": ["one"]}):
        with pytest.raises(ArtefactError):
            method.from_files(broken, tensors, made.bank)
