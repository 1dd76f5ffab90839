"""Inference with fewer and larger operations, for bases built like Llama.

One token per lane is little arithmetic, so what a step costs besides reading the weights is calls. Here
queries, keys and values are one product, gate and up another, and norms and rotations one operation
each; long rows, as in prefill, scoring and feature extraction, gain by passing over memory less often.

For decoding, `join` makes the base's own projections views into joined weights, so nothing is held
twice and every other path computes with the same numbers; on a CPU they are stored transposed, which
multiplies faster at few rows. Until then the projections are used as they are. `pack` adds a copy of
the weights that oneDNN multiplies faster. Weights of codes are neither joined nor packed.

Whether a base is built that way is seen from its modules, and then tried by the self-check. Passes with
adapters that are more than LoRA, steering or something in front of the prompt go through the base's
own layers.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rung.bases.quantized import Quantized
from rung.forward import selfcheck
from rung.forward.adapter import Adapter
from rung.forward.attention import Plan, TriePlan
from rung.forward.backbone import Backbone
from rung.forward.llama.detect import GROUPS, built_like_llama, plain_or_coded
from rung.forward.llama.lora_batch import LoraStacks
from rung.forward.llama.prepacked import Packing, multiply
from rung.forward.llama.training import Norm

log = logging.getLogger("rung.forward")


@dataclass(kw_only=True)
class Layer:
    """One layer: its projections by group, and the rest of its modules.

    Attributes:
        linear: the base's own modules. widths: how wide the output of each is.
        joined: (sum of d_out, d_in) by group, once the base is joined.
        packed: the weights of a group once more, for products that `Packing` says it suits.
        biases: (sum of d_out,) by group, None where no projection has one.
    """

    linear: dict[str, list[nn.Linear]]
    widths: dict[str, list[int]]
    norms: tuple[Norm, Norm]
    scaling: float
    biases: dict[str, Tensor | None]
    joined: dict[str, Tensor] = field(default_factory=dict)
    packed: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, layer: Any) -> Layer:
        modules = dict(layer.named_modules())
        linear = {group: [modules[n] for n in names] for group, names in GROUPS.items()}
        norms = Norm(layer.input_layernorm), Norm(layer.post_attention_layernorm)
        return cls(
            linear=linear,
            widths={group: [p.out_features for p in parts] for group, parts in linear.items()},
            norms=norms,
            scaling=layer.self_attn.scaling,
            biases={group: _bias(parts) for group, parts in linear.items()},
        )

    def product(self, group: str, x: Tensor, packed: bool = False) -> Tensor:
        """x (n, d_in) -> all projections of a group side by side, (n, sum of d_out)."""
        if packed and group in self.packed:
            return multiply(x, self.packed[group], self.biases[group])
        parts = self.linear[group]
        if group in self.joined or len(parts) == 1:
            weight = self.joined[group] if group in self.joined else parts[0].weight
            return F.linear(x, weight, self.biases[group])
        out = x.new_empty(len(x), sum(self.widths[group]))
        for part, place in zip(parts, out.split(self.widths[group], 1), strict=True):
            if isinstance(part.weight, Quantized):
                place.copy_(F.linear(x, part.weight))
            else:
                torch.mm(x, part.weight.t(), out=place)
        bias = self.biases[group]
        return out if bias is None else out.add_(bias)


class LlamaInference:
    """Passes without gradients; made by `LlamaInference.of`.

    Args:
        adapters: by slot, as the bank holds them.
    """

    def __init__(self, backbone: Backbone, adapters: Mapping[int, Adapter]):
        base: Any = backbone.base_model
        self.backbone = backbone
        self.layers = [Layer.of(layer) for layer in base.layers]
        self.head_dim = base.layers[0].self_attn.head_dim
        self.rotary, self.norm = base.rotary_emb, Norm(base.norm)
        self.stacks = LoraStacks(backbone, adapters)
        self.coded = any(isinstance(p.weight, Quantized) for p in self.layers[0].linear["attention"])
        self._packings: list[Packing] = []
        self._head: Tensor | None = None  # packed

    @classmethod
    def of(cls, backbone: Backbone, adapters: Mapping[int, Adapter]) -> LlamaInference | None:
        """Make it for a base; None where that is built otherwise, or the self-check says no."""
        if not built_like_llama(backbone, plain_or_coded):
            return None
        made = cls(backbone, adapters)
        return made if made.agrees() else None

    def agrees(self) -> bool:
        """Check a small trie of the bare base against the base's own forward."""

        def compute() -> list[tuple[Tensor, Tensor]]:
            trie = selfcheck.sample(self.backbone.vocabulary)
            positions = trie.positions.to(self.backbone.device)
            # Not in inference mode, within which inputs of codes are coded: the engine prepares in it.
            with torch.inference_mode(False), torch.no_grad():
                plans = TriePlan(trie), TriePlan(trie)
                embeddings = self.backbone.embed(trie.ids, plans[0].slots)
                ours = self.run(embeddings, positions, plans[0])
                return [(ours, self.backbone.run_own(embeddings, positions, plans[1]))]

        fault = selfcheck.fault(compute, self.backbone.dtype)
        if fault is not None:
            log.warning("the base's own forward is taken: with joined operations %s", fault)
        return fault is None

    # --- weights ----------------------------------------------------------------------------------

    @property
    def joins(self) -> bool:
        """Whether the weights are joined already, or cannot be."""
        return self.coded or all(layer.joined for layer in self.layers)

    def join(self) -> None:
        """Make the projections of each group views into one weight, for steps of few tokens."""
        with torch.inference_mode(False):  # a later training must be able to use them
            for layer in self.layers:
                layer.joined = {group: _join(parts) for group, parts in layer.linear.items()}

    def pack(self, packing: Packing, head: bool = False) -> None:
        """Hold weights once more as oneDNN multiplies them faster, where `packing` says that it pays.

        Args:
            head: pack the output layer too.
        """
        if packing in self._packings or self.coded:
            return
        with torch.inference_mode(False):
            for group in GROUPS:
                if all(group in layer.packed for layer in self.layers):
                    continue
                weights = [_whole(layer.linear[group]) for layer in self.layers]
                for layer, packed in zip(self.layers, packing.pack(weights) or (), strict=False):
                    layer.packed[group] = packed
            own = self.backbone.own_head()
            if head and self._head is None and own.plain:
                self._head = next(iter(packing.pack([own.weight.detach()]) or ()), None)
        self._packings.append(packing)

    @property
    def packable_bytes(self) -> int:
        """Bytes that `pack` may still take, where it packs all that it can."""
        device, dtype = self.backbone.device, self.backbone.dtype
        if self.coded or device.type != "cpu" or dtype != torch.float32:
            return 0
        left = [p.weight for one in self.layers for g in GROUPS if g not in one.packed
                for p in one.linear[g]]  # fmt: skip
        own = self.backbone.own_head()
        left += [own.weight] if own.plain and self._head is None else []
        return sum(w.numel() * w.element_size() for w in left)

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, d) -> (N, vocabulary), through the base's own output layer."""
        if self._head is not None and self._packed_for(len(hidden)):
            return multiply(hidden, self._head)
        return self.backbone.own_head().logits(hidden)

    # --- one pass ---------------------------------------------------------------------------------

    def suits(self, plan: Plan) -> bool:
        """Whether every adapter of a pass can be computed here."""
        return self.stacks.suits(plan.slots)

    def run(
        self,
        entering: Tensor,
        positions: Tensor,
        plan: Plan,
        *,
        first: int | None = None,
        read: np.ndarray | None = None,
    ) -> Tensor:
        """As `LayerRange.run`."""
        rows = None if read is None else torch.from_numpy(read).to(entering.device)
        if first == len(self.layers):
            return entering if rows is None else entering[rows]
        through = self._through(entering, positions, plan, first or 0, rows)
        _, hidden = deque(through, maxlen=1).pop()  # only the last is held
        return self.norm(hidden)

    def states(
        self, embeddings: Tensor, positions: Tensor, plan: Plan, wanted: Collection[int]
    ) -> dict[int, Tensor]:
        """As `LayerRange.states`."""
        found = {0: embeddings} if 0 in wanted else {}
        deepest = max(wanted)
        if deepest == 0:
            return found
        for boundary, hidden in self._through(embeddings, positions, plan):
            if boundary in wanted:
                found[boundary] = self.norm(hidden) if boundary == len(self.layers) else hidden
            if boundary == deepest:
                break
        return found

    def _through(
        self,
        hidden: Tensor,
        positions: Tensor,
        plan: Plan,
        first: int = 0,
        rows: Tensor | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield each boundary above `first` with its states, those of `rows` alone at the last."""
        turns = self._turns(hidden, positions)
        adds = self.stacks.of(plan.slots, plan.one_token_per_lane)
        for i, layer in enumerate(self.layers[first:], first):
            add, last = adds[i], layer is self.layers[-1]
            joined = self._product(layer, "attention", layer.norms[0](hidden), add)
            mixed = self._attend(i, layer, joined, turns, plan)
            if rows is not None and last and add is None:
                # Behind the last attention no token needs another.
                mixed, hidden, rows = mixed[rows], hidden[rows], None
            hidden = self._product(layer, "output", mixed, add).add_(hidden)
            opened = self._product(layer, "gate", layer.norms[1](hidden), add)
            gate, up = opened.split(layer.widths["gate"], 1)
            inner = F.silu(gate, inplace=True).mul_(up)
            hidden = self._product(layer, "down", inner, add).add_(hidden)
            yield i + 1, hidden if rows is None or not last else hidden[rows]

    def _product(self, layer: Layer, group: str, x: Tensor, add: Any) -> Tensor:
        y = layer.product(group, x, packed=self._packed_for(len(x)))
        return y if add is None else add(group, x, y, layer.widths[group])

    def _packed_for(self, rows: int) -> bool:
        return any(packing.suits(rows) for packing in self._packings)

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


# --- what a base is built of ------------------------------------------------------------------------


def _bias(parts: list[nn.Linear]) -> Tensor | None:
    if all(p.bias is None for p in parts):
        return None
    each: list[Tensor] = [
        p.bias if p.bias is not None else p.weight.new_zeros(p.out_features) for p in parts
    ]
    return torch.cat(each).detach()


def _whole(parts: list[nn.Linear]) -> Tensor:
    """The weights of a group as one: a view where they are joined, a copy else."""
    weights = [p.weight.detach() for p in parts]
    joined = weights[0] if len(weights) == 1 else _already(weights)
    return torch.cat(weights) if joined is None else joined


def _join(parts: list[nn.Linear]) -> Tensor:
    """Make the projections of a group views into one weight, (sum of d_out, d_in)."""
    weights = [p.weight.detach() for p in parts]
    joined = _already(weights)
    if joined is None:
        joined = torch.cat(weights)
        if joined.device.type == "cpu":
            joined = joined.t().contiguous().t()
        for part, view in zip(parts, joined.split([len(w) for w in weights]), strict=True):
            part.weight.data = view
    return joined


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
