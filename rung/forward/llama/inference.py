"""Decoding with fewer and larger operations, for bases built like Llama.

One token per lane is little arithmetic, so what a step costs besides reading the weights is calls. Here
queries, keys and values are one product, gate and up another, and norms and rotations one operation
each; long rows, as in prefill and scoring, gain by passing over memory less often. The base's own
projections become views into the joined weights, so nothing is held twice and every other path computes
with the same numbers; on a CPU they are stored transposed, which multiplies faster at few rows.

Whether a base is built that way is seen from its modules, and then tried: a step must give what the
base's own forward gives. Steps with adapters that are more than LoRA or something in front of the
prompt take the ordinary way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rung.forward.attention import Plan, TriePlan
from rung.forward.bank import Bank, Record
from rung.forward.llama.detect import GROUPS, built_like_llama
from rung.forward.llama.lora_batch import LoraStacks
from rung.forward.llama.prepacked import FEW, MANY, multiply, pack
from rung.forward.llama.training import Norm
from rung.forward.padded import COARSE, TOLERANCE
from rung.forward.slots import Slots
from rung.forward.trie import Sequence, Trie

log = logging.getLogger("rung.engine")

# Bases whose joined weights were tried, and whether they gave what the base's own forward gives.
_TRIED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@dataclass
class Layer:
    """One layer: joined weights (d_out, d_in) by group, biases, and the rest of its modules.

    Attributes:
        widths: per group how wide each of its projections is.
        packed: the joined weights of some groups once more, for more than a few lanes.
    """

    weights: dict[str, Tensor]
    biases: dict[str, Tensor | None]
    widths: dict[str, list[int]]
    norms: tuple[Norm, Norm]
    scaling: float
    packed: dict[str, Tensor] = field(default_factory=dict)


class LlamaInference:
    """The decoder of a base; made by `LlamaInference.of`."""

    def __init__(self, bank: Bank, layers: list[Layer], head_dim: int):
        self.bank, self.layers, self.head_dim = bank, layers, head_dim
        self.rotary: Any = bank.backbone.rotary_emb
        self.norm = Norm(bank.backbone.norm)
        self.stacks = LoraStacks(bank)
        self._head: Tensor | None = None  # packed

    @classmethod
    def of(cls, bank: Bank, lanes: int = 1) -> LlamaInference | None:
        """A decoder for the bank's base, its weights joined; None where it is built otherwise.

        Weights that are joined already stay as they are.

        Args:
            lanes: that decode at once, at most; for more than a few, weights are packed too.
        """
        if not bank.carries_trie or not built_like_llama(bank) or not _TRIED.get(bank.backbone, True):
            return None
        modules: Any = bank.backbone.layers
        with torch.inference_mode(False):  # a later training must be able to use them
            layers = [_join(layer) for layer in modules]
            lean = cls(bank, layers, modules[0].self_attn.head_dim)
            lean._pack(lanes)
        return lean

    def _pack(self, lanes: int) -> None:
        for group in GROUPS:
            packed = pack([layer.weights[group] for layer in self.layers], lanes)
            for layer, weight in zip(self.layers, packed or (), strict=bool(packed)):
                layer.packed[group] = weight
        head = self.bank.head(-1)
        if head.bias is None and head.scale == 1.0 and not head.softcap:
            packed = pack([head.weight.detach()], lanes)
            self._head = packed[0] if packed else None

    def logits(self, hidden: Tensor, slots: Slots) -> Tensor:
        """(B, d) of a step that suits -> (B, vocabulary): no such adapter has a head of its own."""
        if self._head is not None and FEW <= len(hidden) <= MANY:
            return multiply(hidden, self._head)
        return self.bank.logits(hidden, slots)

    @classmethod
    def for_tries(cls, bank: Bank) -> LlamaInference | None:
        """The same for long rows, tried on a small trie."""
        lean = cls.of(bank)
        if lean is None or lean.tried:
            return lean
        # No special tokens: their huge states drown the rest of a pass in half precision's rounding.
        size = bank.model.get_input_embeddings().weight.shape[0]
        rows = [(100, 137, 174, 211), (100, 137, 248)]
        trie = bank.trie([Sequence(tuple(n % size for n in row)) for row in rows])
        plans = TriePlan(trie), TriePlan(trie)
        with torch.inference_mode():
            same = lean._same(trie.ids, trie.positions.to(bank.device), plans)
        return lean if same else None

    @property
    def tried(self) -> bool:
        """Whether the base was tried before."""
        return self.bank.backbone in _TRIED

    def suits(self, plan: Plan) -> bool:
        """Whether every adapter of a step can be computed here."""
        return self.stacks.suits(plan.slots)

    def agrees(self, steps: Iterable[tuple[Plan, Plan]]) -> bool:
        """Whether steps give what the base's own forward gives.

        Args:
            steps: a few consecutive ones, each planned twice.
        """
        vocabulary = self.bank.model.get_input_embeddings().weight.shape[0]
        for i, plans in enumerate(steps):
            ids = (torch.arange(len(plans[0].slots.of_token)) * 7 + 3 * i + 100) % vocabulary
            if not self._same(ids, plans[0].positions, plans):  # type: ignore[attr-defined]
                return False
        return True

    def _same(self, ids: Tensor, positions: Tensor, plans: tuple[Plan, Plan]) -> bool:
        embeddings = self.bank.embed(ids.to(self.bank.device), plans[0].slots)
        ours = self.run(embeddings, positions, plans[0])
        theirs = self.bank.run(embeddings, positions, plans[1])
        apart = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-9))
        same = _TRIED[self.bank.backbone] = apart < TOLERANCE.get(ours.dtype, COARSE)
        if not same:
            log.warning("the base's own forward is taken: joined weights differ by %.2g", apart)
        return same

    def forward(
        self,
        trie: Trie,
        record: Record | None = None,
        front: dict[int, Tensor] | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """What `Bank.forward` gives, of some rows if they are named, without a graph.

        It goes the ordinary way where adapters need it.
        """
        plan = TriePlan(trie, {**self.bank.front(trie), **(front or {})}, record)
        if not self.suits(plan):
            hidden = self.bank.forward(trie, record, front)
            return hidden if rows is None else hidden[rows]
        embeddings = self.bank.embed(trie.ids, plan.slots)
        return self.run(embeddings, trie.positions.to(self.bank.device), plan, rows)

    def run(
        self, embeddings: Tensor, positions: Tensor, plan: Any, rows: Tensor | None = None
    ) -> Tensor:
        """One pass over one token per lane, or over a trie: (B, d), (B,) -> (B, d) or (rows, d)."""
        hidden = embeddings
        turns = self._turns(hidden, positions)
        adds = self.stacks.of(plan.slots, plan.one_token_per_lane)
        for i, (layer, add) in enumerate(zip(self.layers, adds, strict=True)):
            joined = _product(layer, "attention", layer.norms[0](hidden), add)
            mixed = self._attend(i, layer, joined, turns, plan)
            if rows is not None and add is None and layer is self.layers[-1]:
                # Behind the last attention no row needs another.
                mixed, hidden, rows = mixed[rows], hidden[rows], None
            hidden = _product(layer, "output", mixed, add).add_(hidden)
            opened = _product(layer, "gate", layer.norms[1](hidden), add)
            gate, up = opened.split(layer.widths["gate"], 1)
            hidden = _product(layer, "down", F.silu(gate, inplace=True).mul_(up), add).add_(hidden)
        return self.norm(hidden if rows is None else hidden[rows])

    def _turns(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines, and sines with the sign that each half of a head takes, (B, 1, hd) each."""
        cos, sin = (x[0, :, None] for x in self.rotary(hidden[None], position_ids=positions[None]))
        first, second = sin.chunk(2, -1)
        return cos, torch.cat((-first, second), -1)

    def _attend(self, i: int, layer: Layer, joined: Tensor, turns: Any, plan: Any) -> Tensor:
        """joined (B, queries + keys + values) -> (B, queries)."""
        batch, widths = len(joined), layer.widths["attention"]
        heads = joined.view(batch, -1, self.head_dim)
        rotated, values = heads.split(
            [(widths[0] + widths[1]) // self.head_dim, widths[2] // self.head_dim], 1
        )
        cos, sin = turns
        rotated = rotated.roll(self.head_dim // 2, -1).mul_(sin).addcmul_(rotated, cos)
        queries, keys = rotated.split([widths[0] // self.head_dim, widths[1] // self.head_dim], 1)
        parts = (x.transpose(0, 1)[None] for x in (queries, keys, values))
        return plan.attend(i, *parts, layer.scaling).view(batch, -1)


def _product(layer: Layer, group: str, x: Tensor, add: Any) -> Tensor:
    packed = layer.packed.get(group) if FEW <= len(x) <= MANY else None
    if packed is not None:
        y = multiply(x, packed, layer.biases[group])
    else:
        y = F.linear(x, layer.weights[group], layer.biases[group])
    return y if add is None else add(group, x, y, layer.widths[group])


# --- what a base is built of ------------------------------------------------------------------------


def _join(layer: Any) -> Layer:
    """Make the projections of each group views into one weight."""
    modules = dict(layer.named_modules())
    weights: dict[str, Tensor] = {}
    biases: dict[str, Tensor | None] = {}
    widths: dict[str, list[int]] = {}
    for group, names in GROUPS.items():
        parts: list[nn.Linear] = [modules[n] for n in names]
        widths[group] = [p.out_features for p in parts]
        weight: list[Tensor] = [p.weight.detach() for p in parts]
        joined = _already(weight)  # (sum of d_out, d_in)
        if joined is None:
            joined = torch.cat(weight)
            if joined.device.type == "cpu":
                joined = joined.t().contiguous().t()
            for part, view in zip(parts, joined.split(widths[group]), strict=True):
                part.weight.data = view
        weights[group] = joined
        biased: list[Tensor] = [
            p.bias if p.bias is not None else p.weight.new_zeros(p.out_features) for p in parts
        ]
        biases[group] = torch.cat(biased).detach() if any(p.bias is not None for p in parts) else None
    norms = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
    return Layer(weights, biases, widths, norms, layer.self_attn.scaling)


def _already(weights: list[Tensor]) -> Tensor | None:
    """The joined weight that these are views of, if they are."""
    first = weights[0]
    at, across = first.storage_offset(), first.stride()
    if first.device.type == "cpu" and across[0] != 1:
        return None
    for weight in weights:
        beside = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not beside or weight.stride() != across or weight.storage_offset() != at:
            return None
        at += len(weight) * across[0]
    return first.as_strided((sum(map(len, weights)), first.shape[1]), across, first.storage_offset())
