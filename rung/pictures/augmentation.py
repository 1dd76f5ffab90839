"""Augmentation: pictures mirrored and cut for a step of training, by draws that can be drawn again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_SIDE = 0.7  # of a cut, as a share of the picture's sides; its area is half of the picture's


class Augmentation:
    """Mirrors half of the pictures (`flip`), and enlarges a part of each to its whole size (`crop`).

    What happens to a row in a step follows from seed, step and row, whatever other rows are there and
    however they are parted into passes; so a training that is begun again is the same to the bit.

    Args:
        kinds: of `rung.methods.augment.KINDS`; `none` is nothing.
    """

    def __init__(self, kinds: Sequence[str], seed: int):
        self.kinds, self.seed = frozenset(kinds), seed

    def __bool__(self) -> bool:
        return bool(self.kinds - {"none"})

    def __call__(self, pixels: Tensor, rows: Sequence[int], step: int) -> Tensor:
        """Pixels (n, 3, h, w) of rows of the data -> changed ones of that shape."""
        draws = torch.stack([self._draws(row, step) for row in rows])  # (n, 4), uniform in [0, 1)
        if "crop" in self.kinds:
            pixels = cut(pixels, draws[:, 1:].to(pixels.device))
        if "flip" in self.kinds:
            mirrored = (draws[:, 0] < 0.5).to(pixels.device)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        return pixels

    def _draws(self, row: int, step: int) -> Tensor:
        mixed = (self.seed * 1_000_003 + step) * 1_000_003 + row
        return torch.rand(4, generator=torch.Generator().manual_seed(mixed % (1 << 63)))


def cut(pixels: Tensor, draws: Tensor) -> Tensor:
    """Enlarge a square part of each picture to the whole, bilinearly: (n, 3, h, w).

    Args:
        draws: (n, 3) in [0, 1): the part's side between `LEAST_SIDE` and 1, and where it lies.
    """
    side = LEAST_SIDE + (1 - LEAST_SIDE) * draws[:, 0]
    theta = torch.zeros(len(pixels), 2, 3, dtype=pixels.dtype, device=pixels.device)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, 0, 2] = (1 - side) * (2 * draws[:, 1] - 1)
    theta[:, 1, 2] = (1 - side) * (2 * draws[:, 2] - 1)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
