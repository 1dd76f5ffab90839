"""Sight: how an adapter of a language model sees pictures (after LLaVA, arXiv 2304.08485, 2310.03744).

A frozen vision encoder gives patches, which are averaged to a grid; a small MLP maps each cell into the
language model's space of embeddings. What leaves it stands in the row where the ids of the picture do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from rung.errors import ArtefactError
from rung.forward.slots import Slots
from rung.pictures import tokens
from rung.pictures.encoder import PictureEncoder
from rung.types import Message, Picture


class Grids(Protocol):
    """What gives patches of pictures: `rung.forward.picture_bank.PictureBank`."""

    encoder: PictureEncoder

    def grid(self, pictures: Sequence[Picture], side: int) -> Tensor:
        """(n, side * side, e), each picture encoded once."""
        ...

    def look(self, pictures: Sequence[Picture], side: int) -> int:
        """Compute the same for when it is asked for -> how many pictures were encoded for it."""
        ...


@dataclass(frozen=True)
class Sight:
    """A vision encoder and the MLP behind it.

    Attributes:
        encoder: shared by all adapters that see with it.
        side: cells of the grid on each side.
        tensors: first (h, e), first_bias (h,), second (d, h), second_bias (d,), of the encoder's token
            width e and the language model's width d.
    """

    encoder: Grids
    side: int
    tensors: Mapping[str, Tensor]

    @property
    def count(self) -> int:
        """Tokens of a picture."""
        return self.side * self.side

    @property
    def width(self) -> int:
        """Numbers of what it puts into a row."""
        return len(self.tensors["second_bias"])

    def look(self, messages: Sequence[Message]) -> tuple[int, int]:
        """Encode the pictures of a conversation, so that whoever computes with them need not wait ->
        how many different ones there are, and how many were encoded for it.

        Raises:
            DataError: for a picture that cannot be read.
        """
        shown = list(dict.fromkeys(p for m in messages for p in m.get("pictures", ())))
        return len(shown), self.encoder.look(shown, self.side) if shown else 0

    def project(self, cells: Tensor) -> Tensor:
        """(..., e) -> (..., d)."""
        t = self.tensors
        inner = F.layer_norm(cells.to(t["first"].device, torch.float32), cells.shape[-1:])
        return F.linear(
            F.gelu(F.linear(inner, t["first"], t["first_bias"])), t["second"], t["second_bias"]
        )

    def vectors(self, ids: Tensor) -> Tensor:
        """(n,) ids of pictures -> (n, d), each picture encoded once.

        Raises:
            DataError: for a picture that cannot be read.
        """
        every = ids.tolist()
        numbers = list(dict.fromkeys(map(tokens.number_of, every)))
        cells = self.encoder.grid([tokens.picture_of(n) for n in numbers], self.side)
        row = {number: i * self.count for i, number in enumerate(numbers)}
        at = [row[tokens.number_of(i)] + tokens.place_of(i) for i in every]
        found = self.project(cells).flatten(0, 1)
        return found[torch.tensor(at, device=found.device)]

    def check(self, width: int, refuses: str | None) -> None:
        """Raise ArtefactError for a language model of another width, or one that takes no vectors.

        Args:
            refuses: why the language model takes nothing but ids; None where it does.
        """
        if refuses is not None:
            raise ArtefactError(f"this base takes no picture tokens: {refuses}")
        if self.width != width:
            raise ArtefactError(f"picture tokens are {self.width} wide, the base's {width}")

    @classmethod
    def fresh(
        cls, encoder: Grids, side: int, hidden: int, table: Tensor, generator: Generator
    ) -> Sight:
        """Random weights, whose outputs lie where the embeddings `table` (V, d) do."""
        table = table.detach().float().cpu()
        width, spread = encoder.encoder.token_width, float(table.std())
        first = torch.randn(hidden, width, generator=generator) * width**-0.5
        second = torch.randn(table.shape[1], hidden, generator=generator) * hidden**-0.5 * spread
        return cls(encoder, side, {
            "first": first, "first_bias": torch.zeros(hidden),
            "second": second, "second_bias": table.mean(0).clone(),
        })  # fmt: skip

    @classmethod
    def read(cls, encoder: Grids, side: int, tensors: Mapping[str, Tensor], width: int) -> Sight:
        """Of what a folder holds, for a language model of that width.

        Raises:
            ArtefactError: naming the tensor that is missing, of another shape, or not finite.
        """
        hidden = len(tensors["first_bias"]) if "first_bias" in tensors else 0
        shapes = {
            "first": (hidden, encoder.encoder.token_width), "first_bias": (hidden,),
            "second": (width, hidden), "second_bias": (width,),
        }  # fmt: skip
        for name, shape in shapes.items():
            if name not in tensors or tuple(tensors[name].shape) != shape:
                raise ArtefactError(f"the projector has no {name} of shape {shape}: it is incomplete")
            if not bool(tensors[name].isfinite().all()):
                raise ArtefactError(f"the projector's {name} holds values that are not finite")
        return cls(encoder, side, {name: tensors[name].float() for name in shapes})


class Seeing(Protocol):
    """An adapter, as far as it sees."""

    @property
    def sight(self) -> Sight | None: ...


def of(adapters: Mapping[int, Seeing]) -> dict[int, Sight]:
    """The sights of those adapters that see, by their slots."""
    return {slot: one.sight for slot, one in adapters.items() if one.sight is not None}


def embed(
    sights: Mapping[int, Sight], ids: Tensor, slots: Slots, words: Callable[[Tensor, Slots], Tensor],
    blank: Callable[[], Tensor],
) -> Tensor:  # fmt: skip
    """(T,) ids, some of them of pictures -> (T, d).

    Args:
        sights: by the slots of adapters that see, of which there is one at least.
        words: embeds ids of the vocabulary.
        blank: what stands for a picture where the adapter does not see, (d,).
    """
    shown = (ids >= tokens.FIRST_ID).cpu()
    if not bool(shown.any()):
        return words(ids, slots)
    out = words(ids.masked_fill(shown.to(ids.device), 0), slots)
    for slot in slots.present:
        at = (torch.from_numpy(slots.of_token == slot) & shown).nonzero()[:, 0]
        if not len(at):
            continue
        sight = sights.get(slot)
        found = blank().expand(len(at), -1) if sight is None else sight.vectors(ids[at.to(ids.device)])
        out = out.index_copy(0, at.to(out.device), found.to(out.device, out.dtype))
    return out
