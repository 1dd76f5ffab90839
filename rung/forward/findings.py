"""Findings: how a base is to be computed so that it answers as transformers answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Findings:
    """How a base is to be computed. None stands for the fast way, a text for why it is not taken.

    Attributes:
        trie: its attention cannot run on a trie, so batches go as padded rows.
        together: a row's numbers depend on its neighbours or on the longest row, so each row is
            computed by itself and whole.
        embeddings: it does not take embeddings in place of ids.
        virtual: it takes no embeddings but those of its own tokens, so there are no virtual tokens.
        positions: it counts positions in a way of its own, so it is not told them.
        head: its logits are more than a product with the output layer, so the model forms them.
        causal: a token sees what stands behind it, so the base cannot generate.
    """

    trie: str | None = None
    together: str | None = None
    embeddings: str | None = None
    virtual: str | None = None
    positions: str | None = None
    head: str | None = None
    causal: str | None = None
