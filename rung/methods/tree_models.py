"""Boosted trees as they are kept and asked: counted n-grams, and nodes in tensors, never a pickle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.errors import ArtefactError
from rung.forward.classifier import Classifier
from rung.methods import layers
from rung.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from rung.forward.backbone import Backbone

WORDS, CHARACTERS = "words", "characters"
ANALYZERS: dict[str, dict[str, Any]] = {
    WORDS: {"analyzer": "word", "ngram_range": (1, 3), "token_pattern": r"(?u)\b\w+\b"},
    CHARACTERS: {"analyzer": "char", "ngram_range": (1, 3)},
}
MIN_ROWS = 3  # that an n-gram must stand in
MIN_WORD_TERMS = 20  # below these the texts have few blanks, and characters are counted
MOST = 255  # counts above are as good as these, and fit a byte
ROWS_AT_ONCE = 256  # of a walk down all trees


@dataclass(frozen=True)
class CountedNgrams:
    """How often each of the most frequent n-grams stands in a text.

    Attributes:
        kind: of `ANALYZERS`. terms: the n-grams in the order of their columns.
    """

    kind: str
    terms: tuple[str, ...]

    @classmethod
    def of(cls, texts: Sequence[str], limit: int) -> CountedNgrams:
        """Learn the most frequent n-grams of words, or of characters where words are few."""
        words = cls(WORDS, _frequent(texts, WORDS, limit))
        if len(words.terms) >= min(MIN_WORD_TERMS, limit):
            return words
        characters = cls(CHARACTERS, _frequent(texts, CHARACTERS, limit))
        return max(words, characters, key=lambda one: len(one.terms))

    @cached_property
    def _analysed(self) -> Callable[[str], list[str]]:
        """A text -> all its n-grams."""
        from sklearn.feature_extraction.text import CountVectorizer

        return CountVectorizer(**ANALYZERS[self.kind]).build_analyzer()

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {term: i for i, term in enumerate(self.terms)}

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """(N,) texts -> (N, terms) uint8."""
        found = np.zeros((len(texts), len(self.terms)), dtype=np.uint8)
        for row, text in zip(found, texts, strict=True):
            known = (self._columns.get(term) for term in self._analysed(text))
            for column, count in Counter(c for c in known if c is not None).items():
                row[column] = min(count, MOST)
        return found

    def settings(self) -> dict[str, Any]:
        """What it is made of, as plain data."""
        return {"counted": self.kind, "terms": list(self.terms)}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> CountedNgrams:
        """From what `settings` gave.

        Raises:
            ArtefactError: for what it cannot have given.
        """
        kind, terms = settings.get("counted"), settings.get("terms")
        if kind not in ANALYZERS:
            raise ArtefactError(f"settings.json: 'counted' must be {' or '.join(ANALYZERS)}")
        if not isinstance(terms, list) or not all(isinstance(term, str) for term in terms):
            raise ArtefactError("settings.json: 'terms' must be a list of texts")
        if not terms or len(set(terms)) < len(terms):
            raise ArtefactError("settings.json: 'terms' must name n-grams, none of them twice")
        return cls(kind, tuple(terms))


def _frequent(texts: Sequence[str], kind: str, limit: int) -> tuple[str, ...]:
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(max_features=limit, min_df=MIN_ROWS, **ANALYZERS[kind])
    try:
        vectorizer.fit(texts)
    except ValueError:  # no n-gram stands in so many rows
        return ()
    return tuple(vectorizer.get_feature_names_out().tolist())


def nodes_of(model: Any, rounds: int, labels: int) -> dict[str, np.ndarray]:
    """The first rounds of a fitted `HistGradientBoostingClassifier`, T trees of at most N nodes.

    The nodes are not of scikit-learn's public names; tests hold what is made of them to its own scores.

    Returns:
        feature (T, N): the column that a node asks, -1 in a leaf. threshold, left, right (T, N): where
        the count is at most the threshold the way goes to node `left`, else to `right`. value (T, N):
        what a leaf adds to the score of the label `label` (T,). bias (L,): scores before any tree.
    """
    grown = [(k, one.nodes) for trees in model._predictors[:rounds] for k, one in enumerate(trees)]
    # Of two labels there is one score, that of the second.
    first = 1 if labels == 2 else 0
    wide = max((len(nodes) for _, nodes in grown), default=1)
    found = {
        "feature": np.full((len(grown), wide), -1, dtype=np.int32),
        "threshold": np.zeros((len(grown), wide), dtype=np.int32),
        "left": np.zeros((len(grown), wide), dtype=np.int32),
        "right": np.zeros((len(grown), wide), dtype=np.int32),
        "value": np.zeros((len(grown), wide), dtype=np.float32),
        "label": np.array([first + k for k, _ in grown], dtype=np.int32),
        "bias": np.zeros(labels, dtype=np.float32),
    }
    found["bias"][first:] = np.asarray(model._baseline_prediction, dtype=np.float32).reshape(-1)
    for at, (_, nodes) in enumerate(grown):
        inner, n = nodes["is_leaf"] == 0, len(nodes)
        found["feature"][at, :n] = np.where(inner, nodes["feature_idx"], -1)
        # Counts are whole: the threshold between two of them is as good as the lower one.
        found["threshold"][at, :n] = np.where(inner, np.floor(nodes["num_threshold"]), 0)
        found["left"][at, :n] = np.where(inner, nodes["left"], 0)
        found["right"][at, :n] = np.where(inner, nodes["right"], 0)
        found["value"][at, :n] = np.where(inner, 0.0, nodes["value"])
    return found


class TreesClassifier(Classifier):
    """Classify the last user message by boosted trees over its counted n-grams.

    Args:
        labels: L names. nodes: the tensors that `nodes_of` gives.
    """

    def __init__(self, labels: Sequence[str], counts: CountedNgrams, nodes: Mapping[str, Tensor]):
        self.labels, self.counts, self.nodes = tuple(labels), counts, dict(nodes)
        self._arrays = {name: tensor.detach().cpu().numpy() for name, tensor in nodes.items()}

    @classmethod
    def checked(
        cls, labels: Sequence[str], counts: CountedNgrams, tensors: dict[str, Tensor]
    ) -> TreesClassifier:
        """From tensors out of a file.

        Raises:
            ArtefactError: naming the tensor that is missing, of a wrong shape, or points nowhere.
        """
        import torch

        given = tensors.get("feature")
        if given is None or given.dim() != 2 or given.shape[1] < 1:
            raise ArtefactError("weights.safetensors: 'feature' must be a table of trees and nodes")
        trees, wide = given.shape
        nodes = {
            n: layers.tensor(tensors, n, (trees, wide)) for n in ("threshold", "left", "right", "value")
        }
        nodes["feature"] = given
        nodes["label"] = layers.tensor(tensors, "label", (trees,))
        nodes["bias"] = layers.tensor(tensors, "bias", (len(labels),))
        for name in ("feature", "threshold", "left", "right", "label"):
            nodes[name] = nodes[name].to(torch.int32)
        bounds = {"feature": (-1, len(counts.terms)), "left": (0, wide), "right": (0, wide),
                  "label": (0, len(labels))}  # fmt: skip
        for name, (least, end) in bounds.items():
            if trees and not (least <= int(nodes[name].min()) and int(nodes[name].max()) < end):
                raise ArtefactError(f"weights.safetensors: '{name}' points at what is not there")
        return cls(labels, counts, nodes)

    def parameters(self) -> dict[str, Tensor]:
        return dict(self.nodes)

    def scores(self, counts: np.ndarray) -> np.ndarray:
        """(N, terms) counts -> (N, labels), what the trees add up to."""
        nodes, out = self._arrays, []
        for at in range(0, len(counts), ROWS_AT_ONCE):
            found = np.tile(nodes["bias"].astype(np.float64), (len(counts[at : at + ROWS_AT_ONCE]), 1))
            if len(nodes["label"]):
                values = self._leaves(counts[at : at + ROWS_AT_ONCE])
                for label in np.unique(nodes["label"]):
                    found[:, label] += values[:, nodes["label"] == label].sum(1)
            out.append(found)
        return np.concatenate(out) if out else np.zeros((0, len(self.labels)))

    def _leaves(self, counts: np.ndarray) -> np.ndarray:
        """(N, terms) -> (N, T), the value of the leaf of each tree."""
        nodes, (trees, wide) = self._arrays, self._arrays["feature"].shape
        flat = {
            name: nodes[name].reshape(-1) for name in ("feature", "threshold", "left", "right", "value")
        }
        first = np.arange(trees) * wide
        where = np.broadcast_to(first, (len(counts), trees)).copy()
        rows = np.arange(len(counts))[:, None]
        for _ in range(wide):  # no way is longer than a tree has nodes
            asked = flat["feature"][where]
            inner = asked >= 0
            if not inner.any():
                break
            low = counts[rows, np.maximum(asked, 0)] <= flat["threshold"][where]
            onward = first + np.where(low, flat["left"][where], flat["right"][where])
            where = np.where(inner, onward, where)
        return flat["value"][where].astype(np.float64)

    def probabilities(self, backbone: Backbone, slot: int, prompts: Sequence[Prompt]) -> Tensor:
        """(N, labels) float32, each row summing to 1."""
        import torch
        from scipy.special import softmax

        if not prompts:
            return torch.empty(0, len(self.labels))
        scores = self.scores(self.counts.vectors([p.question for p in prompts]))
        return torch.from_numpy(softmax(scores, axis=1)).float()
