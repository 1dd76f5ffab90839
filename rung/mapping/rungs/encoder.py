"""A sentence encoder: names and descriptions by the cosine of their embeddings.

Right records that are near to everything (hubs) lose half of what they are nearer to left records than
others are, as cross-domain similarity local scaling does (Conneau et al., arXiv 1710.04087).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rung.errors import ArtefactError
from rung.mapping.problem import Problem
from rung.mapping.records import Record
from rung.mapping.rungs import base
from rung.mapping.vectors import Vectors

NEIGHBOURS = 5  # left records whose mean cosine says how much of a hub a right one is


class Rung(base.Rung):
    summary = "names and descriptions by a sentence encoder"
    place = 30

    def fit(self, problem: Problem, cheaper: Mapping[str, base.Scorer]) -> base.Scorer:
        return scorer_of(problem)

    def restore(self, right: Sequence[Record], state: base.State, tools: base.Tools) -> base.Scorer:
        if tools.vectors.encoder.digest != state.settings["digest"]:
            raise ArtefactError(
                f"the encoder {tools.vectors.spec} has changed since: run rung map again"
            )
        found = state.tensors["right"]
        if found.shape != (len(right), tools.vectors.encoder.width):
            raise ValueError("the vectors are not those of the right records")
        hubs = state.tensors["hubs"]
        if hubs.shape != (len(right),):
            raise ValueError("the hubs are not those of the right records")
        return Scorer(right, tools.vectors, found, hubs, keep=False)


def scorer_of(problem: Problem) -> Scorer:
    """Encode both sides of a problem, each text once however many rungs ask."""
    left = encode(problem.vectors, problem.left, stopping=problem.stopping)
    right = encode(problem.vectors, problem.right, stopping=problem.stopping)
    return Scorer(problem.right, problem.vectors, right, hubness(left, right))


def hubness(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(right,): half the mean cosine with the nearest left records, less the mean of all right ones."""
    rows = max(1, base.BLOCK_CELLS // max(1, len(left)))
    near = min(NEIGHBOURS, len(left))
    found = [
        np.partition(right[i : i + rows] @ left.T, len(left) - near, axis=1)[:, -near:].mean(1)
        for i in range(0, len(right), rows)
    ]
    means = np.concatenate(found)
    return ((means - means.mean()) / 2).astype(np.float32)


def encode(
    vectors: Vectors, records: Sequence[Record], keep: bool = True,
    stopping: Callable[[], bool] = lambda: False,
) -> np.ndarray:  # fmt: skip
    """(n, d): the mean of the name's vector and of that of all that is known, of length 1."""
    name, whole = (
        vectors.of(texts, keep=keep, stopping=stopping)
        for texts in ([r.words for r in records], [r.sentence for r in records])
    )
    found = name + whole
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


class Scorer(base.BlockScorer):
    """Cosine of embeddings, less what hubs lose.

    Args:
        matrix: (right, d) of the right records. hubs: (right,) what is taken off their cosines.
        keep: embeddings of left records in memory.
    """

    def __init__(
        self,
        right: Sequence[Record],
        vectors: Vectors,
        matrix: np.ndarray,
        hubs: np.ndarray,
        keep: bool = True,
    ):
        super().__init__(right)
        self.vectors, self.matrix = vectors, np.ascontiguousarray(matrix, dtype=np.float32)
        self.hubs, self.keep = hubs, keep

    def embed(self, left: Sequence[Record]) -> np.ndarray:
        """(n, d) of left records."""
        return encode(self.vectors, left, self.keep)

    def block(self, left: Sequence[Record]) -> np.ndarray:
        return self.embed(left) @ self.matrix.T - self.hubs

    def state(self) -> base.State:
        return base.State(
            {"digest": self.vectors.encoder.digest}, {"right": self.matrix, "hubs": self.hubs}
        )
