"""An adapter: small weights apart from the base, as the seams they override."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from rung.data.conversation import Conversation
from rung.forward.classifier import Classifier
from rung.forward.dropout import Dropout
from rung.forward.mapper import Mapper
from rung.forward.op import LinearOp
from rung.forward.packing import last_of
from rung.forward.reward_head import RewardHead
from rung.forward.sight import Sight
from rung.forward.token_rows import TokenRows
from rung.forward.towers import Towers
from rung.forward.trie import Sequence as Row
from rung.remote.model import RemoteModel


@dataclass
class Adapter:
    """The seams that one adapter overrides; what is absent is left to the base.

    Attributes:
        embeddings: (P, d) virtual tokens at the root of the trie.
        keys_values: (layers, 2, P, kv_heads, head_dim) in front of every layer's keys and values.
        linear: operations on projections, by the module's name in the base.
        weights: own copies of the base's parameters, by parameter name.
        tokens: rows of embeddings and output layer for some tokens, the base's or added ones.
        sight: turns the ids of pictures into embeddings.
        towers: gives vectors of pictures and of texts, in place of the base.
        conversation: rewrites the messages before they are rendered.
        classifier: answers with a label in place of the output layer.
        remote: answers behind an API; nothing of the base is asked then.
        reward: scores texts in place of writing them.
        mapper: maps records in place of writing them; a reranker's seams may stand beside it.
        value: (d + 1,) weights and bias of a value head, trained beside and no part of the model.
        activation: token ids from whose last occurrence on the adapter acts, their first one among
            the tokens that it changes; in front of them, and without them, the base computes. Empty:
            it acts everywhere.
        dropout: what is dropped in training.
    """

    embeddings: Tensor | None = None
    keys_values: Tensor | None = None
    linear: Mapping[str, LinearOp] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    tokens: TokenRows | None = None
    sight: Sight | None = None
    towers: Towers | None = None
    conversation: Conversation | None = None
    classifier: Classifier | None = None
    remote: RemoteModel | None = None
    reward: RewardHead | None = None
    mapper: Mapper | None = None
    value: Tensor | None = None
    activation: tuple[int, ...] = ()
    dropout: Dropout | None = None

    @property
    def positions(self) -> int:
        """Positions of the context that it takes in front of every prompt."""
        virtual = 0 if self.embeddings is None else len(self.embeddings)
        return virtual + (0 if self.keys_values is None else self.keys_values.shape[2])

    def begins(self, ids: Sequence[int] | np.ndarray) -> int | None:
        """The token of a text at which it begins to act, which may be behind the last; None for one
        that acts everywhere."""
        if not self.activation:
            return None
        at = last_of(self.activation, ids)
        return len(ids) if at is None else at

    def begun(self, sequence: Row) -> Row:
        """A sequence with where this adapter begins to act in it."""
        if not self.activation or sequence.begins is not None:
            return sequence
        return sequence.beginning(self.begins(sequence.ids) or 0)

    def parameters(self) -> dict[str, Tensor]:
        """All tensors that training changes, by a name that is stable across runs."""
        named = {
            "embeddings": self.embeddings, "keys_values": self.keys_values, "value": self.value,
        }  # fmt: skip
        found = {name: tensor for name, tensor in named.items() if tensor is not None}
        for module, op in self.linear.items():
            for name, tensor in op.parameters().items():
                found[f"linear.{module}.{name}"] = tensor
        for name, tensor in self.weights.items():
            found[f"weights.{name}"] = tensor
        if self.tokens is not None:
            for name, tensor in self.tokens.parameters().items():
                found[f"tokens.{name}"] = tensor
        if self.sight is not None:
            for name, tensor in self.sight.tensors.items():
                found[f"sight.{name}"] = tensor
        if self.towers is not None:
            for name, tensor in self.towers.tensors.items():
                found[f"towers.{name}"] = tensor
        if self.classifier is not None:
            for name, tensor in self.classifier.parameters().items():
                found[f"classifier.{name}"] = tensor
        if self.reward is not None:
            found["reward.weight"] = self.reward.weight
        return found

    @property
    def strength(self) -> float | None:
        """Its strength; None unless all that it does to the base has one."""
        found = [op.strength for op in self.linear.values()]
        if not found or None in found or self.weights or self.positions or self.sight or self.tokens:
            return None
        return found[0]

    def at_strength(self, strength: float | None) -> Adapter | None:
        """The same adapter at another strength, None for its own; None unless all that it does to the
        base has one."""
        if self.strength is None:
            return None
        ops = {name: op.at_strength(strength) for name, op in self.linear.items()}
        return replace(self, linear={name: op for name, op in ops.items() if op is not None})

    def kept(self) -> Adapter:
        """The adapter as it is written and served, for one that is trained in another form."""
        return replace(self, linear={n: op.kept() for n, op in self.linear.items()}, dropout=None)

    def dropping(self, *key: int) -> AbstractContextManager[None]:
        """Drop what training drops in the passes inside, by masks that follow from the key."""
        return nullcontext() if self.dropout is None else self.dropout.drawing(*key)

    def trainable(self, on: bool = True) -> Adapter:
        """Set or clear requires_grad on every parameter; returns itself."""
        for tensor in self.parameters().values():
            tensor.requires_grad_(on)
        return self

    def to(self, device: str | torch.device) -> Adapter:
        """Move every parameter's data in place; dtypes are kept."""
        for tensor in self.parameters().values():
            tensor.data = tensor.data.to(device)
        return self

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(t.numel() for t in self.parameters().values())
