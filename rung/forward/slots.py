"""Which adapter each token of a flat row belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


class Slots:
    """The slot of each of T tokens, ready for seams that work on one slot's tokens at a time."""

    def __init__(self, of_token: Iterable[int] | np.ndarray | Tensor):
        self.of_token = np.asarray(of_token, dtype=np.int64)  # (T,)
        self._masks: dict[tuple, Tensor] = {}
        self._places: dict[torch.device, Tensor] = {}

    @cached_property
    def present(self) -> tuple[int, ...]:
        """The slots that occur, ascending."""
        return tuple(int(s) for s in np.unique(self.of_token))

    @cached_property
    def only(self) -> int | None:
        """The slot of all tokens, or None where there are several."""
        return self.present[0] if len(self.present) == 1 else None

    @cached_property
    def _rows(self) -> dict[int, slice | Tensor]:
        rows: dict[int, slice | Tensor] = {}
        for slot in self.present:
            at = np.nonzero(self.of_token == slot)[0]
            first, last = int(at[0]), int(at[-1])
            whole = last - first + 1 == len(at)
            rows[slot] = slice(first, last + 1) if whole else torch.from_numpy(at)
        return rows

    def rows(self, slot: int) -> slice | Tensor:
        """The tokens of one slot: a slice where they stand together, else their indices."""
        return self._rows[slot]

    def places(self, device: torch.device) -> Tensor:
        """(T,): where each token's slot stands in `present`."""
        if device not in self._places:
            found = torch.from_numpy(np.searchsorted(self.present, self.of_token))
            self._places[device] = found.to(device)
        return self._places[device]

    def column_mask(self, columns: tuple[tuple[int, int, float], ...], like: Tensor) -> Tensor:
        """(T, sum of widths): for each (slot, width, value) its value in its tokens' rows, else 0."""
        key = (columns, like.dtype, like.device)
        if key not in self._masks:
            parts = [np.outer(self.of_token == slot, np.full(w, v)) for slot, w, v in columns]
            mask = torch.from_numpy(np.concatenate(parts, axis=1))
            self._masks[key] = mask.to(dtype=like.dtype, device=like.device)
        return self._masks[key]
