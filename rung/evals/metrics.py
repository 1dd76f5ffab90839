"""The metrics, by name."""

from __future__ import annotations

import math

import numpy as np

from rung.errors import ConfigError, nearest
from rung.evals import label_metrics, overlap, parsing_metrics, structure
from rung.evals.metric import Case, Metric, of_pairs
from rung.types import Task

__all__ = ["Case", "Metric", "get", "names", "suited"]


def get(name: str) -> Metric:
    """The metric of that name. Raises ConfigError naming the nearest."""
    if name not in _METRICS:
        raise ConfigError(
            f"no metric '{name}'{nearest(name, _METRICS)}; there are {', '.join(_METRICS)}"
        )
    return _METRICS[name]


def names() -> list[str]:
    """All metrics."""
    return list(_METRICS)


def suited(task: Task) -> list[str]:
    """The metrics that are shown for a kind of task, its own first."""
    found = [m.name for m in _METRICS.values() if task.kind in m.kinds]
    return list(dict.fromkeys([task.metric, *found]))


def _perplexity_statistics(case: Case) -> np.ndarray:
    if case.scores is None or any("log_likelihood" not in s for s in case.scores):
        raise ConfigError("perplexity needs the texts scored: ask with --metric perplexity")
    return np.array([[-s["log_likelihood"], s["tokens"]] for s in case.scores]).reshape(-1, 2)


def _perplexity(sums: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(sums[..., 0] / np.maximum(sums[..., 1], 1.0), 700.0))


LABELS = ("classification",)
CHOICE = ("classification", "multiple_choice")
SHORT = ("question_answering", "extraction")
TEXT = ("generation", "translation", "question_answering")
FREE = ("generation",)
STRUCTURE = ("extraction",)

_ALL = [
    Metric("accuracy", "share of right labels", label_metrics.accuracy, kinds=CHOICE),
    Metric(
        "accuracy_norm", "accuracy by log-probability per character of the label",
        label_metrics.accuracy_norm, kinds=CHOICE,
    ),
    Metric("macro_f1", "F1 of each label, averaged", label_metrics.counts, label_metrics.macro_f1,
           kinds=LABELS, item=label_metrics.hits),
    Metric("exact_match", "share of answers equal to the reference, as SQuAD normalises",
           of_pairs(overlap.exact_match), kinds=(*SHORT, "translation", "generation")),
    Metric("token_f1", "words in common with the reference, as SQuAD counts",
           of_pairs(overlap.token_f1), kinds=SHORT),
    Metric("rouge_1", "ROUGE-1 F1", overlap.rouge("rouge1"), kinds=FREE),
    Metric("rouge_2", "ROUGE-2 F1", overlap.rouge("rouge2"), kinds=FREE),
    Metric("rouge_l", "ROUGE-L F1", overlap.rouge("rougeL"), kinds=TEXT),
    Metric("bleu", "BLEU of the whole, 0 to 100", overlap.bleu_counts, overlap.bleu,
           kinds=("translation",), item=overlap.sentence_bleu, bounds=(0.0, 100.0)),
    Metric("chrf", "chrF of the whole, 0 to 100", overlap.chrf_counts, overlap.chrf,
           kinds=("translation", "generation"), bounds=(0.0, 100.0)),
    Metric("perplexity", "per token of what is to be predicted", _perplexity_statistics, _perplexity,
           kinds=("language_modelling",), lower=True, bounds=(1.0, math.inf)),
    Metric("number_match", "share of answers whose number is the reference's",
           of_pairs(parsing_metrics.number_match)),
    Metric("regex_match", "share of answers that the reference, a pattern, finds",
           of_pairs(parsing_metrics.regex_match)),
    Metric("json_valid", "share of answers that are JSON", of_pairs(parsing_metrics.json_valid)),
    Metric("json_match", "share of answers that equal the reference, as JSON",
           of_pairs(parsing_metrics.json_match)),
    Metric("span_f1", "spans found, whatever their label", structure.spans(labelled=False),
           structure.f1, kinds=STRUCTURE),
    Metric("label_f1", "spans found with their label", structure.spans(labelled=True), structure.f1,
           kinds=STRUCTURE),
    Metric("bracket_f1", "labelled constituents found", structure.brackets, structure.f1),
    Metric("attachment_score", "share of words with the right head",
           structure.attachment(labelled=False), structure.share),
    Metric("labelled_attachment_score", "share of words with the right head and relation",
           structure.attachment(labelled=True), structure.share),
]  # fmt: skip

_METRICS = {metric.name: metric for metric in _ALL}
