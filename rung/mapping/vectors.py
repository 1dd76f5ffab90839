"""Embeddings of records, each text encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rung.bases.encoder import Encoder

MAX_CHARACTERS = 400  # characters of a text that are encoded: names and a sentence of description


class Vectors:
    """An encoder that is loaded when it is first needed, and what it has encoded.

    Args:
        spec: as `rung.bases.encoder` takes it.
    """

    def __init__(self, spec: str):
        self.spec = spec
        self._encoder: Encoder | None = None
        self._kept: dict[str, np.ndarray] = {}

    @property
    def encoder(self) -> Encoder:
        """The encoder in memory. Raises BaseNotFound and ArtefactError as `encoder.load`."""
        if self._encoder is None:
            from rung.bases import encoder

            self._encoder = encoder.load(self.spec)
        return self._encoder

    def of(
        self,
        texts: Sequence[str],
        *,
        keep: bool = True,
        stopping: Callable[[], bool] = lambda: False,
    ) -> np.ndarray:
        """Encode texts: (n, d) float32, each row of length 1.

        Args:
            keep: remember them, for texts that are asked for again.

        Raises:
            Interrupted: when `stopping` says so.
        """
        cut = [text[:MAX_CHARACTERS] for text in texts]
        fresh = [text for text in dict.fromkeys(cut) if text not in self._kept]
        found = self._kept
        if fresh:
            made = self.encoder.encode(fresh, stopping).numpy()
            made = made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)
            found = self._kept if keep else dict(self._kept)
            found.update(zip(fresh, made.astype(np.float32), strict=True))
        return np.stack([found[text] for text in cut])
