"""Proof of an export: its logits for a fixed row of tokens are compared with the model's."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rung.errors import ArtefactError
from rung.exports import picture_proof
from rung.exports.base import Export, Source
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.forward.trie import Sequence
from rung.methods.peft import through_peft

TOKENS = 64  # in the row that is compared
PEFT_TOLERANCE = {torch.float32: 1e-4}  # of the largest logit; half precision rounds by more
HALF_TOLERANCE = 0.05


@dataclass(frozen=True)
class Proof:
    """The largest difference of logits between the model and what was exported.

    Attributes:
        ran: what running it by another program has shown; None where none was there.
    """

    difference: float
    tokens: int
    by: str = ""  # whose code read the export, where that is worth saying
    ran: str | None = None
    pictures: bool = False  # whether vectors were compared, of so many pictures and texts

    def told(self, name: str) -> str:
        """What was compared with a model of this name, and what came of it."""
        what, of = ("vectors", "pictures and texts") if self.pictures else ("logits", "tokens")
        return f"{what} within {self.difference:.1e} of {name} on {self.tokens} {of}"


def row(vocabulary: int, adapter: Adapter | None = None) -> tuple[int, ...]:
    """Draw the token ids that are compared: the same ones for every export of a base.

    Args:
        adapter: one that acts only where it is called is called in the middle; of one with rows of
            tokens some stand in the row.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (TOKENS,), generator=generator).tolist()
    call = [] if adapter is None else adapter.activation[: TOKENS // 2]
    ids[TOKENS // 4 : TOKENS // 4 + len(call)] = call
    own = () if adapter is None or adapter.tokens is None else adapter.tokens.ids
    for place, token in zip(range(1, TOKENS, 5), own, strict=False):
        ids[place] = token
    return tuple(ids)


def row_of(source: Source) -> tuple[int, ...]:
    """The token ids that are compared for a model."""
    return row(source.bank.vocabulary, source.adapter)


@torch.no_grad()
def logits(bank: Bank, slot: int) -> Tensor:
    """Compute the logits (TOKENS, V) of the row, float32.

    Args:
        slot: of the adapter in the bank; -1 is the bare base.
    """
    return logits_of(bank, slot, row(bank.vocabulary, bank.adapters.get(slot)))


@torch.no_grad()
def logits_of(bank: Bank, slot: int, ids: Ids[int]) -> Tensor:
    """Compute the logits (len(ids), V) of token ids, float32."""
    trie = bank.trie([Sequence(tuple(ids), slot=slot)])
    hidden = bank.forward(trie)[torch.from_numpy(trie.rows[0])]
    return bank.logits(hidden, [slot] * len(ids)).float()


def of_peft(folder: Path, bank: Bank, adapter: Adapter) -> Tensor:
    """Compute the row's logits (TOKENS, W) by PEFT, for what is in a folder of an adapter.

    Raises:
        ArtefactError: when PEFT cannot load the folder.
    """
    tokens = 0 if adapter.tokens is None else adapter.tokens.end
    return through_peft.logits(folder, bank, list(row(bank.vocabulary, adapter)), tokens)


def against_peft(folder: Path, bank: Bank, adapter: Adapter) -> float:
    """Compare an adapter's logits with those that PEFT itself gives for what is in a folder.

    Returns:
        the largest difference, as a share of the largest logit.

    Raises:
        ArtefactError: when that is more than rounding, or PEFT cannot load the folder.
    """
    slot = bank.add(adapter)
    try:
        ours = logits(bank, slot)
    finally:
        bank.remove(slot)
    theirs = of_peft(folder, bank, adapter)
    apart = float((ours - theirs).abs().max() / theirs.abs().max())
    if not apart <= PEFT_TOLERANCE.get(bank.dtype, HALF_TOLERANCE):
        raise ArtefactError(
            f"PEFT answers otherwise with it, by {apart:.2g} of the largest logit: this adapter cannot "
            "be had in PEFT's layout on this base"
        )
    return apart


def prove(source: Source, export: Export, theirs: Tensor, dtype: str) -> Proof:
    """Compare an export's logits with those of the model.

    Raises:
        ArtefactError: when they differ by more than the export's tolerance for this precision.
    """
    pictures = source.bank.reads == "pictures"
    answers = picture_proof.vectors if pictures else logits
    ours = answers(source.bank, source.bank.add(source.adapter))
    difference = float((ours - theirs.float()).abs().max())
    tolerance = export.tolerance[dtype]
    if not difference <= tolerance:  # NaN is no proof
        raise ArtefactError(
            f"the exported model's answers differ by {difference:.2g}, more than {tolerance:g}: "
            "not written"
        )
    return Proof(difference, len(ours), export.proven_by(), pictures=pictures)
