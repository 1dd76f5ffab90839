"""Output layers: logits of a batch whose rows belong to several adapters, each through its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rung.forward import token_rows
from rung.forward.adapter import Adapter
from rung.forward.backbone import Backbone, Head, ModelHead
from rung.forward.slots import Slots
from rung.forward.token_rows import TokenRows


class OutputLayers(Backbone):
    """A backbone whose slots have output layers of their own.

    Attributes:
        adapters: the resident ones, by slot.
    """

    adapters: dict[int, Adapter]

    def logits(self, hidden: Tensor, slots: Slots | Iterable[int]) -> Tensor:
        """(N, d) and each row's slot -> (N, W), W the base's vocabulary with what adapters of these
        rows have added to it; what others have added is -inf in a row."""
        slots = slots if isinstance(slots, Slots) else Slots(list(slots))
        if self.findings.head is not None:
            return self.model_head().logits(hidden, slots)
        out = self._through_weights(hidden, slots)
        held = self.token_rows(slots)
        return token_rows.widen(held, out, hidden, slots, self.own_head()) if held else out

    def head(self, slot: int) -> Head | ModelHead:
        """The output layer of a slot."""
        if self.findings.head is not None:
            return self.model_head(slot)
        made, adapter = self._head(slot), self.adapters.get(slot)
        made.rows = None if adapter is None else adapter.tokens
        return made

    def token_rows(self, slots: Slots) -> dict[int, TokenRows]:
        """The rows of tokens of those slots of a pass whose adapters have some."""
        known = ((s, self.adapters.get(s)) for s in slots.present)
        return {s: a.tokens for s, a in known if a is not None and a.tokens is not None}

    @cached_property
    def embedding_scale(self) -> float:
        """What a token's row is multiplied by to embed it."""
        return token_rows.scale_of(self) or 1.0

    @abstractmethod
    def own_logits(self, hidden: Tensor) -> Tensor:
        """(N, d) -> (N, V) by the base's own output layer, by the fastest way that is there."""

    def _through_weights(self, hidden: Tensor, slots: Slots) -> Tensor:
        """Logits of the base's vocabulary. All that share the base's own output layer go through it at
        once: its weights are read once."""
        own = [s for s in slots.present if self._owns_weights(s)]
        if not own:
            return self.own_logits(hidden)
        if slots.only is not None:
            return self._head(slots.only).logits(hidden)
        shared = torch.from_numpy(~np.isin(slots.of_token, own)).to(hidden.device)
        first = self.own_logits(hidden[shared])
        out = first.new_empty(len(hidden), first.shape[1])
        out[shared] = first
        for slot in own:
            out[slots.rows(slot)] = self._head(slot).logits(hidden[slots.rows(slot)])
        return out

    def _owns_weights(self, slot: int) -> bool:
        adapter = self.adapters.get(slot)
        return adapter is not None and bool(adapter.weights)

    def _head(self, slot: int) -> Head:
        """The output layer of a slot over the base's vocabulary."""
        made, adapter = self.own_head(), self.adapters.get(slot)
        if adapter is not None and adapter.weights:
            made.weight = self._own_of(adapter, made.weight)
            if made.bias is not None:
                made.bias = self._own_of(adapter, made.bias)
        return made

    def _own_of(self, adapter: Adapter, parameter: Tensor) -> Tensor:
        """What an adapter has in place of the output layer's parameter, or of what that is tied to."""
        names = self.names(parameter)
        out = self.model.get_output_embeddings()
        names.sort(key=lambda n: self.modules[n.rpartition(".")[0]] is not out)
        return next((adapter.weights[n] for n in names if n in adapter.weights), parameter)
