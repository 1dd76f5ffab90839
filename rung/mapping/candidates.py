"""Assignment: of each left record's candidates the one it becomes, one-to-one or many-to-one."""

from __future__ import annotations

import numpy as np

from rung.mapping.rungs.base import Candidates

NOBODY = -1


def assign(
    candidates: Candidates, weights: np.ndarray, right: int, many_to_one: bool = False
) -> np.ndarray:
    """Choose a candidate for each left record.

    One-to-one it is the assignment with the largest sum of weights among the candidates, in which a
    left record may also stay alone at weight 0: `min_weight_full_bipartite_matching` (LAPJVsp, Jonker
    and Volgenant 1987) on n (k + 1) edges, so that memory grows with the candidates and not with all
    pairs. Many-to-one it is each one's heaviest.

    Args:
        weights: (n, k) of the candidates, at least 0. right: number of right records.

    Returns:
        (n,) columns of `candidates`, NOBODY where none is left for it.
    """
    n, k = weights.shape
    if n == 0:
        return np.zeros(0, dtype=np.int64)
    if many_to_one:
        chosen = weights.argmax(1)
    else:
        chosen = _one_to_one(candidates.places, np.asarray(weights, dtype=np.float64), right)
    chosen = np.where(chosen < k, chosen, NOBODY)
    weighs = weights[np.arange(n), np.maximum(chosen, 0)] > 0
    return np.where((chosen != NOBODY) & weighs, chosen, NOBODY)


def _one_to_one(places: np.ndarray, weights: np.ndarray, right: int) -> np.ndarray:
    """(n,) columns of the candidates, k for 'alone'."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    n, k = weights.shape
    highest = float(weights.max())
    alone = right + np.arange(n)[:, None]  # a column of its own for each left record
    columns = np.concatenate([places, alone], axis=1)
    # Costs are above 0, since an entry of 0 would count as no edge.
    costs = 1 + highest - np.concatenate([weights, np.zeros((n, 1))], axis=1)
    rows = np.repeat(np.arange(n), k + 1)
    graph = csr_array((costs.ravel(), (rows, columns.ravel())), shape=(n, right + n))
    found_rows, found = min_weight_full_bipartite_matching(graph)
    matched = np.empty(n, dtype=np.int64)
    matched[found_rows] = found
    return (columns == matched[:, None]).argmax(1)
