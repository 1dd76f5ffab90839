"""Proof of an export: its logits for a fixed row of tokens are compared with the model's."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass

import torch
from torch import Tensor

from rung.errors import ArtefactError
from rung.exports.base import Export, Source
from rung.forward.bank import Bank
from rung.forward.trie import Sequence

TOKENS = 64  # in the row that is compared


@dataclass(frozen=True)
class Proof:
    """The largest difference of logits between the model and what was exported.

    Attributes:
        ran: what running it by another program has shown; None where none was there.
    """

    difference: float
    tokens: int
    ran: str | None = None


def row(vocabulary: int) -> tuple[int, ...]:
    """Draw the token ids that are compared: the same ones for every export of a base."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randint(vocabulary, (TOKENS,), generator=generator).tolist())


@torch.no_grad()
def logits(bank: Bank, slot: int) -> Tensor:
    """Compute the logits (TOKENS, V) of the row, float32.

    Args:
        slot: of the adapter in the bank; -1 is the bare base.
    """
    return logits_of(bank, slot, row(bank.vocabulary))


@torch.no_grad()
def logits_of(bank: Bank, slot: int, ids: Ids[int]) -> Tensor:
    """Compute the logits (len(ids), V) of token ids, float32."""
    trie = bank.trie([Sequence(tuple(ids), slot=slot)])
    hidden = bank.forward(trie)[torch.from_numpy(trie.rows[0])]
    return bank.logits(hidden, [slot] * len(ids)).float()


def prove(source: Source, export: Export, theirs: Tensor, dtype: str) -> Proof:
    """Compare an export's logits with those of the model.

    Raises:
        ArtefactError: when they differ by more than the export's tolerance for this precision.
    """
    ours = logits(source.bank, source.bank.add(source.adapter))
    difference = float((ours - theirs.float()).abs().max())
    tolerance = export.tolerance[dtype]
    if not difference <= tolerance:  # NaN is no proof
        raise ArtefactError(
            f"the exported model's logits differ by {difference:.2g}, more than {tolerance:g}: "
            "not written"
        )
    return Proof(difference, len(ours))
