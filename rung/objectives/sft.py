"""Supervised fine-tuning: the mean cross-entropy of the supervised tokens of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rung.objectives import base
from rung.types import Rendered

if TYPE_CHECKING:
    from rung.forward.bank import Bank
    from rung.forward.loss import Loss
    from rung.forward.trie import Sequence, Trie


class Objective(base.Objective):
    summary = "predict the replies of the data"
    edges_only = True

    def sequences(self, row: Rendered, slot: int) -> list[Sequence]:
        from rung.forward.trie import Sequence

        return [Sequence(row.ids, row.supervised, slot)]

    def weight(self, row: Rendered) -> float:
        return float(sum(row.supervised))

    def loss(self, bank: Bank, trie: Trie, hidden, slot: int, accuracy: bool = False) -> Loss:
        from rung.forward.loss import edge_loss

        return edge_loss(bank, trie, hidden, slot, accuracy)
