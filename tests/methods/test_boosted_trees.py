"""Boosted trees: words tell labels apart by what stands beside them; kept without a pickle."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung import methods
from rung.errors import ArtefactError, Interrupted, MethodMisfit
from rung.methods.tree_models import CHARACTERS, WORDS, CountedNgrams, TreesClassifier, nodes_of
from rung.types import Prompt, Task
from tests.methods.asking import YES_NO, row, study
from tests.methods.test_tfidf import labelled

METHOD = methods.get("boosted_trees")


def either(count: int, seed: int) -> list:
    """Rows whose label says whether exactly one of two words is in them: no word alone tells."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        left, right = draw.random() < 0.5, draw.random() < 0.5
        said = [w for w, on in (("lamp", left), ("door", right)) if on]
        said += draw.choices(("chair", "table", "stone", "river"), k=3)
        draw.shuffle(said)
        found.append(row(" ".join(said), ("no", "yes")[left != right]))
    return found


def fitted(made, **knobs):
    return METHOD.fit(made, METHOD.Config(**knobs))


def asked(*texts: str) -> list[Prompt]:
    return [Prompt((1,), ({"role": "user", "content": text},)) for text in texts]


def test_words_that_tell_only_together_are_learned_where_a_linear_classifier_fails(tmp_path):
    made = study(tmp_path / "run", train=either(400, 1), validation=either(100, 2))
    found = fitted(made)
    assert found.metrics["validation_accuracy"] > 0.95
    linear = methods.get("tfidf")
    assert linear.fit(made, linear.Config()).metrics["validation_accuracy"] < 0.8
    classifier = found.adapter.classifier
    said = classifier.probabilities(made.bank, -1, asked("lamp river", "lamp door", "door stone", ""))
    assert [classifier.labels[i] for i in said.argmax(1)] == ["yes", "no", "yes", "no"]
    assert np.allclose(said.sum(1), 1, atol=1e-6)


def test_it_comes_back_from_disk_the_same(tmp_path):
    from tests.methods.test_tfidf import kept

    made = study(tmp_path / "run", train=either(200, 1), validation=either(60, 2))
    adapter = fitted(made).adapter
    again = kept(adapter, made, tmp_path / "model", "boosted_trees")
    rows = asked("lamp river", "lamp door", "nothing of it", "")
    before = adapter.classifier.probabilities(made.bank, -1, rows)
    assert np.array_equal(before, again.classifier.probabilities(made.bank, -1, rows))
    names = {p.name for p in (tmp_path / "model").iterdir()}
    assert {"settings.json", "weights.safetensors"} <= names and not [n for n in names if "pkl" in n]


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 12))
def test_scores_are_scikit_learns(seed, labels, rounds):
    from sklearn.ensemble import HistGradientBoostingClassifier

    draw = np.random.default_rng(seed)
    x = draw.integers(0, 6, (120, 7)).astype(np.uint8)
    y = np.concatenate([np.arange(labels), draw.integers(0, labels, 120 - labels)])
    model = HistGradientBoostingClassifier(
        max_iter=12, early_stopping=False, min_samples_leaf=3, random_state=0
    ).fit(x, y)
    counts = CountedNgrams(WORDS, tuple("abcdefg"))
    ours = classifier_of(nodes_of(model, rounds, labels), labels, counts).scores(x)
    theirs = list(model.staged_decision_function(x))[rounds - 1]
    if labels == 2:
        theirs = np.stack([np.zeros(len(x)), np.ravel(theirs)], 1)
    assert np.allclose(ours, theirs, atol=1e-4)


def classifier_of(nodes, labels: int, counts: CountedNgrams) -> TreesClassifier:
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in nodes.items()}
    return TreesClassifier([str(i) for i in range(labels)], counts, tensors)


def test_where_words_say_nothing_the_most_frequent_label_is_given(tmp_path):
    draw = random.Random(0)
    rows = [row(f"same words {i % 3}", ("rare", "usual")[draw.random() < 0.8]) for i in range(200)]
    made = study(tmp_path / "run", train=rows[:140], validation=rows[140:])
    found = fitted(made)
    classifier = found.adapter.classifier
    said = classifier.probabilities(made.bank, -1, asked("same words 1", "other words"))
    assert [classifier.labels[i] for i in said.argmax(1)] == ["usual", "usual"]


def test_it_is_asked_through_the_engine_like_any_model(tmp_path):
    from rung.engine import ServedModel
    from rung.evals.measure import measure
    from rung.evals.predict import predict

    held = labelled(20, 3)
    made = study(tmp_path / "run", train=labelled(80, 1), validation=labelled(30, 2))
    adapter = fitted(made).adapter
    model = ServedModel.of("trees", made.bank.add(adapter), made.template, adapter)
    assert measure(predict(made.bank, model, held, YES_NO), held, YES_NO).value > 0.8


def test_a_script_without_blanks_is_counted_by_characters():
    texts = ["我今天很高兴", "他今天很难过"] * 20
    counts = CountedNgrams.of(texts, 500)
    assert counts.kind == CHARACTERS and "高兴" in counts.terms
    assert counts.vectors(["高兴高兴"])[0, counts.terms.index("高兴")] == 2


def test_more_of_a_word_than_a_byte_holds_counts_as_the_most():
    counts = CountedNgrams(WORDS, ("lamp", "door"))
    assert counts.vectors(["lamp " * 300 + "door"]).tolist() == [[255, 1]]


def test_without_validation_rows_a_few_rounds_are_grown(tmp_path):
    made = study(tmp_path / "run", train=either(200, 1), validation=[])
    found = fitted(made)
    assert found.metrics["rounds"] > 0 and "validation_accuracy" not in found.metrics


def test_a_climb_may_begin_on_a_sample_of_its_rows():
    from rung.ladder.levels import levels

    rows, held = METHOD.reads(METHOD.Config(), 4000, 200)
    assert (rows, held) == (4000, 200)
    assert [round(4000 * v.share) for v in levels(rows, held, None, 0.0, 60.0)] == [250, 1000, 4000]


def test_it_stops_between_stages(tmp_path):
    made = study(tmp_path / "run", train=either(100, 1), stopping=lambda: True)
    with pytest.raises(Interrupted):
        fitted(made)


def test_what_it_cannot_do_is_said(tmp_path):
    for kind, metric in (("question_answering", "exact_match"), ("multiple_choice", "accuracy")):
        task = Task(kind, metric)
        assert METHOD.unsuited(task, METHOD.Config())
        with pytest.raises(MethodMisfit):
            fitted(study(tmp_path, task=task))
    with pytest.raises(MethodMisfit, match="two labels"):
        fitted(study(tmp_path, train=[row(f"lamp {i}", "yes") for i in range(9)]))
    with pytest.raises(MethodMisfit, match="no n-gram"):
        fitted(study(tmp_path, train=[row(chr(0x4E00 + i), ("no", "yes")[i % 2]) for i in range(9)]))


def test_a_damaged_folder_is_refused(tmp_path):
    import torch

    made = study(tmp_path / "run", train=either(100, 1), validation=either(30, 2))
    said, tensors = METHOD.to_files(fitted(made).adapter, made.bank, METHOD.Config())
    METHOD.from_files(said, tensors, made.bank)
    for key, value in (("labels", ["one"]), ("labels", None), ("labels", ["no", "no", "yes"]),
                       ("labels", ["no", 1]), ("terms", ["a", "a"]), ("terms", [1]),
                       ("counted", "letters"), ("terms", ["a"])):  # fmt: skip
        with pytest.raises(ArtefactError):
            METHOD.from_files({**said, key: value}, tensors, made.bank)
    for name in ("feature", "left", "right", "label"):
        wrong = {**tensors, name: torch.full_like(tensors[name], 10**6)}
        with pytest.raises(ArtefactError, match=name):
            METHOD.from_files(said, wrong, made.bank)
    for name in tensors:
        with pytest.raises(ArtefactError):
            METHOD.from_files(said, {n: t for n, t in tensors.items() if n != name}, made.bank)


def test_nodes_that_point_in_a_circle_come_to_an_end():
    counts = CountedNgrams(WORDS, ("lamp",))
    nodes = {
        "feature": np.zeros((1, 2), dtype=np.int32), "threshold": np.zeros((1, 2), dtype=np.int32),
        "left": np.ones((1, 2), dtype=np.int32), "right": np.zeros((1, 2), dtype=np.int32),
        "value": np.ones((1, 2), dtype=np.float32), "label": np.zeros(1, dtype=np.int32),
        "bias": np.zeros(2, dtype=np.float32),
    }  # fmt: skip
    assert classifier_of(nodes, 2, counts).scores(np.zeros((3, 1), dtype=np.uint8)).shape == (3, 2)
