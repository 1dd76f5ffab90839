"""Dropout in training (Srivastava et al., JMLR 15): elements of an input set to zero at random.

Masks follow from the run's seed, the step, the micro-batch and the place in the model alone. So a step
that is computed again, in the backward pass or after a run was resumed, drops the same elements.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Dropout:
    """Masks of one adapter; the identity outside of `drawing`.

    Args:
        rate: probability of an element to be dropped, at least 0 and below 1.
        seed: of the run.
    """

    def __init__(self, rate: float, seed: int):
        self.rate, self.seed = rate, seed
        self._pass: tuple[int, ...] | None = None

    @property
    def active(self) -> bool:
        """Whether a training pass is under way."""
        return self._pass is not None

    @contextmanager
    def drawing(self, *key: int) -> Iterator[None]:
        """Drop elements in the passes inside, by masks that follow from the key."""
        self._pass = key
        try:
            yield
        finally:
            self._pass = None

    def __call__(self, x: Tensor, place: str) -> Tensor:
        """x (n, d) with elements dropped and the others scaled up, so that the mean stays."""
        if self._pass is None:
            return x
        text = repr((self.seed, self._pass, place)).encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:8], "big", signed=True)
        generator = torch.Generator(x.device).manual_seed(seed)
        keep = torch.empty(x.shape, device=x.device)
        keep.bernoulli_(1 - self.rate, generator=generator)
        return x * keep.div_(1 - self.rate).to(x.dtype)
