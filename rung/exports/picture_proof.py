"""Proof of an export whose base reads pictures: vectors of drawn pixels, and of ids by a text tower."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rung.forward.picture_bank import PictureBank
from rung.methods import artefact
from rung.methods.peft import through_peft
from rung.pictures.encoder import PictureEncoder, TextTokens

if TYPE_CHECKING:
    from rung.forward.bank import Bank

PICTURES, TEXTS = 4, 4  # that are compared


def vectors(bank: Bank, slot: int) -> Tensor:
    """The vectors (n, d) of drawn pictures, and of drawn texts, float32.

    Args:
        slot: of the adapter in the bank.
    """
    assert isinstance(bank, PictureBank)
    with bank.acting(bank.adapters[slot]):
        return _of(bank.encoder)


def read_back(bank: Bank, folder: Path) -> Tensor:
    """The same of an adapter in a folder: by PEFT's code, or Rung's reader where PEFT is not there.

    Raises:
        ArtefactError: where it cannot be loaded.
    """
    assert isinstance(bank, PictureBank)
    if not through_peft.installed():
        return vectors(bank, bank.add(artefact.load(folder, bank)[0]))
    theirs = through_peft.inserted(folder, bank.model)
    return _of(dataclasses.replace(bank.encoder, model=theirs))


@torch.no_grad()
def _of(encoder: PictureEncoder) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(PICTURES, 3, *encoder.size, generator=generator)
    found = encoder.pooled(pixels.to(encoder.device, encoder.dtype)).float()
    if not encoder.speaks:
        return found
    words = encoder.model.config.text_config.vocab_size
    ids = torch.randint(words, (TEXTS, encoder.longest_text), generator=generator).to(encoder.device)
    texts = encoder.of_tokens(TextTokens(ids, torch.ones_like(ids))).float()
    return torch.cat([found, texts])
