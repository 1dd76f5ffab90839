"""TF-IDF: the baseline that needs no foundation model, which every rung has to beat.

Labels come from a logistic regression over n-grams of words and characters, open answers from the most
similar training question. Where the most frequent label or answer does better on validation, it is
given instead: no rung that stands above this one is below chance. The base is not asked; it only lends
the model its name and its template.

    rung tune NAME --method tfidf --data ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob
from rung.data.problem import counted
from rung.errors import ArtefactError, MethodMisfit
from rung.evals import kinds
from rung.evals.tasks import question, reply
from rung.methods import base, layers
from rung.methods.workload import Shape, Workload
from rung.types import Example, Message, Task, last_question

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank

MAX_ANSWERS = 20_000  # questions that are compared with; more would answer slowly
MAX_CHOOSE_ROWS = 200  # validation rows by which the nearest or the most frequent answer is taken


@dataclass
class Knobs:
    group: ClassVar[str] = "tfidf"
    nearest: bool = knob(
        False,
        "Answer with the reply to the most similar training question, also where there are labels.",
    )


class Method(base.Method):
    summary = "a baseline without a base: words and characters counted"
    Config = Knobs
    trained = False
    weightless = True
    classifies = True
    baseline = True

    def unsuited(self, task: Task, config: Knobs) -> str | None:
        from rung.evals import metrics

        if metrics.by_likelihood(task):
            return "counts of words do not say how likely a text is"
        kind = kinds.of(task)
        if kind.chooses and not kind.labelled:
            return "each row offers answers of its own, and counts of words do not compare them"
        if kind.compares:
            return "counts of words answer alike to all, and say nothing of which reply is better"
        return None

    def reads(self, config: Knobs, train: int, validation: int) -> tuple[int, int]:
        return 0, 0

    def making(self, config: Knobs, shape: Shape, schedule: base.Schedule) -> Workload:
        # Entries of a row, a few tens of passes of the solver, for each label; and counting n-grams.
        entries = shape.rows * shape.letters * 5
        return Workload(fitted=entries * (40 * max(shape.labels, 1) + 2000))

    def answering(self, config: Knobs, shape: Shape) -> Workload:
        return Workload(fitted=shape.letters * 5 * (2000 + shape.labels))

    def fit(self, study: base.Study, config: Knobs) -> base.Fitted:
        refused = self.unsuited(study.task, config)
        if refused:
            raise MethodMisfit(f"{self.name} does not suit this data: {refused}")
        rows = [e for e in study.train if reply(e) is not None]
        if len(rows) < 2:
            raise MethodMisfit(f"{self.name} needs two rows with a reply at least")
        if kinds.of(study.task).labelled and not config.nearest:
            return _labels(study, rows)
        return _answers(study, rows)

    def to_files(self, adapter: Adapter, bank: Bank, config: Knobs):
        from rung.methods.tfidf_models import NearestAnswer, NgramClassifier

        if isinstance(adapter.remote, NearestAnswer):
            return dict(adapter.remote.settings()), {}
        classifier = adapter.classifier
        assert isinstance(classifier, NgramClassifier)
        parts = classifier.ngrams.parts
        return (
            {"labels": list(classifier.labels), "terms": {kind: t for kind, (t, _) in parts.items()}},
            {**classifier.parameters(), **_idf(parts)},
        )

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        from rung.forward.adapter import Adapter
        from rung.methods.tfidf_models import NearestAnswer

        if "answers" in settings:
            questions, answers = _texts(settings, "questions"), _texts(settings, "answers")
            if len(questions) != len(answers) or not answers:
                raise ArtefactError("settings.json: 'questions' and 'answers' must be of one length")
            return Adapter(remote=NearestAnswer(questions, answers, settings.get("constant") is True))
        return Adapter(classifier=_classifier(settings, tensors))

    def merged(self, adapter: Adapter, bank: Bank) -> dict[str, Tensor]:
        raise MethodMisfit("tfidf has no part in the base's weights, so it cannot be merged: serve it")


def _labels(study: base.Study, rows: Sequence[Example]) -> base.Fitted:
    """A classifier, or the most frequent label."""
    import torch

    from rung.evals.ngrams import Ngrams, fit_labels
    from rung.forward.adapter import Adapter
    from rung.methods.tfidf_models import NgramClassifier

    held = [e for e in study.validation if reply(e) is not None]
    texts, labels = _pairs(rows, last_question)
    if len(set(labels)) < 2:
        raise MethodMisfit(f"tfidf needs rows of two labels at least; there is one, '{labels[0]}'")
    ngrams = Ngrams.of(texts)
    fit = fit_labels(ngrams, texts, labels, *_pairs(held, last_question), study.stopping)
    choice = f"C {fit.c:g}" if fit.c else "the most frequent label"
    study.note(
        f"chose {choice}: accuracy {fit.accuracy:.3f} on {counted(fit.n, 'row')}, "
        f"majority {fit.majority:.3f}"
    )
    classifier = NgramClassifier(
        fit.labels, ngrams, torch.from_numpy(fit.weight), torch.from_numpy(fit.bias)
    )
    metrics: dict[str, Any] = {"choice": choice, "features": ngrams.width}
    if fit.n:
        metrics |= {"validation_accuracy": fit.accuracy, "majority_accuracy": fit.majority}
    return base.Fitted(Adapter(classifier=classifier), metrics)


def _answers(study: base.Study, rows: Sequence[Example]) -> base.Fitted:
    """The most similar question's answer, or the most frequent one, by the task's metric."""
    from rung.evals.answers import Answers
    from rung.evals.measure import measure
    from rung.evals.metrics import get
    from rung.evals.ngrams import part_of
    from rung.forward.adapter import Adapter
    from rung.methods.tfidf_models import NearestAnswer, whole_question

    questions, answers = _pairs(part_of(rows, MAX_ANSWERS), whole_question)
    held = part_of([e for e in study.validation if reply(e) is not None], MAX_CHOOSE_ROWS)
    nearest = NearestAnswer(questions, answers)
    if not held:
        return base.Fitted(Adapter(remote=nearest), {"choice": "the nearest answer"})
    asked, _ = _pairs(held, whole_question)
    values = {
        constant: measure(Answers(said), held, study.task).value
        for constant, said in ((False, nearest.nearest(asked)), (True, [nearest.frequent] * len(held)))
    }
    sign = -1 if get(study.task.metric).lower else 1
    nearest.constant = sign * values[True] > sign * values[False]
    choice = "the most frequent answer" if nearest.constant else "the nearest answer"
    study.note(
        f"chose {choice}: {study.task.metric} {values[nearest.constant]:.3f} on {counted(held, 'row')}"
    )
    return base.Fitted(Adapter(remote=nearest), {"choice": choice, "answers": len(answers)})


def _pairs(
    rows: Sequence[Example], asked: Callable[[Sequence[Message]], str]
) -> tuple[list[str], list[str]]:
    """What was asked, and the replies."""
    return [asked(question(e)) for e in rows], [reply(e) or "" for e in rows]


def _idf(parts: dict[str, Any]) -> dict[str, Tensor]:
    import torch

    return {f"idf.{kind}": torch.from_numpy(idf) for kind, (terms, idf) in parts.items() if terms}


def _classifier(settings: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """Raises ArtefactError for what `to_files` cannot have written."""
    from rung.evals.ngrams import ANALYZERS, Ngrams
    from rung.methods.tfidf_models import NgramClassifier

    labels, terms = layers.labels(settings), settings.get("terms")
    if not isinstance(terms, dict) or set(terms) != set(ANALYZERS):
        raise ArtefactError(f"settings.json: 'terms' must hold {' and '.join(ANALYZERS)}")
    parts: dict[str, Any] = {}
    for kind in ANALYZERS:
        known = _texts(terms, kind)
        if len(set(known)) < len(known):
            raise ArtefactError(f"settings.json: an n-gram of {kind} stands there twice")
        idf = layers.tensor(tensors, f"idf.{kind}", (len(known),)).numpy() if known else ()
        parts[kind] = (known, idf)
    ngrams = Ngrams(parts)
    weight = layers.tensor(tensors, "weight", (len(labels), ngrams.width))
    return NgramClassifier(labels, ngrams, weight, layers.tensor(tensors, "bias", (len(labels),)))


def _texts(settings: dict[str, Any], name: str) -> list[str]:
    found = settings.get(name)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ArtefactError(f"settings.json: '{name}' must be a list of texts")
    return found
