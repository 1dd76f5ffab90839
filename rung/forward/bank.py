"""One frozen base, many adapters.

The bank attaches to a Hugging Face causal language model and holds adapters of any kind in slots. Each
token of a batch carries a slot, so that one forward pass serves different adapters side by side. A
seam is put into the base only where a resident adapter needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rung.errors import ArtefactError
from rung.forward import padded
from rung.forward.adapter import Adapter
from rung.forward.attention import Plan, TriePlan, register
from rung.forward.layer_range import LayerRange
from rung.forward.llama import training
from rung.forward.seam import Seam
from rung.forward.slots import Slots
from rung.forward.trie import Sequence, Trie

Record = Callable[[int, Tensor, Tensor], None]


class Bank:
    """A base with its resident adapters.

    Args:
        model: any Hugging Face causal language model; its parameters are frozen.
        digest: of the base, by which what is computed of it is kept; "" keeps nothing on disk.

    Attributes:
        carries_trie: whether the base's attention can run on a trie; where not, the same batch goes
            through padded rows with the same results.
        why_not: the reason, else None.
    """

    def __init__(self, model: Any, digest: str = ""):
        self.digest = digest
        self.model = model.eval().requires_grad_(False)
        self.config = model.config.get_text_config()
        self.backbone: nn.Module = model.base_model
        self.adapters: dict[int, Adapter] = {}
        self.plan: Plan | None = None
        self.slots: Slots | None = None
        self.carries_trie = True
        self.why_not: str | None = None
        self._modules = dict(model.named_modules())
        self._seams: dict[str, Seam] = {}
        self._next = 0
        self._named: dict[int, tuple[Tensor, list[str]]] = {}
        self._in_blocks: bool | None = None  # not known before gradients are wanted
        self._own_attention = model.config._attn_implementation
        self._takes_trie_attention()

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_input_embeddings().weight.dtype

    # --- adapters -----------------------------------------------------------------------------

    def add(self, adapter: Adapter) -> int:
        """Make an adapter resident.

        Returns:
            its slot.

        Raises:
            ArtefactError: when it names a module or parameter that the base does not have, or one of
                another shape. The bank is then unchanged.
        """
        self._check(adapter)
        slot = self.reserve()
        self.put(slot, adapter)
        return slot

    def reserve(self) -> int:
        """A slot of its own for an adapter that is put there later."""
        slot, self._next = self._next, self._next + 1
        return slot

    def put(self, slot: int, adapter: Adapter) -> None:
        """Make an adapter resident in a slot, in place of what was there."""
        self._check(adapter)
        self.remove(slot)
        self.adapters[slot] = adapter
        for name, op in adapter.linear.items():
            self._seam(name).set(slot, op)
        for name, tensor in adapter.weights.items():
            module, _, parameter = name.rpartition(".")
            self._seam(module).weights.setdefault(slot, {})[parameter] = tensor

    def remove(self, slot: int) -> None:
        """Forget a slot; seams that no adapter needs any more are taken out."""
        if self.adapters.pop(slot, None) is None:
            return
        for name, seam in list(self._seams.items()):
            seam.remove(slot)
            if seam.empty:
                seam.detach()
                del self._seams[name]

    def _seam(self, name: str) -> Seam:
        if name not in self._seams:
            self._seams[name] = Seam(self._modules[name], self)
        return self._seams[name]

    def _check(self, adapter: Adapter) -> None:
        missing = [n for n in adapter.linear if n not in self._modules]
        if missing:
            raise ArtefactError(f"the base has no module {missing[0]}: was it made for another base?")
        own = dict(self.model.named_parameters())
        for name, tensor in adapter.weights.items():
            if name not in own or own[name].shape != tensor.shape:
                raise ArtefactError(f"the base has no parameter {name} of shape {tuple(tensor.shape)}")
        width = self.model.get_input_embeddings().weight.shape[1]
        if adapter.embeddings is not None and adapter.embeddings.shape[1] != width:
            raise ArtefactError(
                f"virtual tokens are {adapter.embeddings.shape[1]} wide, the base's {width}"
            )

    # --- forward ------------------------------------------------------------------------------

    def trie(self, sequences: Iterable[Sequence], prune: bool = False) -> Trie:
        """A trie of sequences, with what their adapters put in front; see `Trie.build`."""
        soft, prefix = {}, {}
        for slot, adapter in self.adapters.items():
            if adapter.embeddings is not None:
                soft[slot] = len(adapter.embeddings)
            if adapter.keys_values is not None:
                prefix[slot] = adapter.keys_values.shape[2]
        return Trie.build(sequences, soft, prefix, prune)

    def forward(
        self,
        trie: Trie,
        record: Record | None = None,
        front: dict[int, Tensor] | None = None,
        edges_only: bool = False,
    ) -> Tensor:
        """Hidden states after the final norm, (T, d).

        Args:
            trie: built by `trie` for the adapters that are resident now.
            record: called per layer with the row's keys and values, each (T, kv_heads, hd).
            front: keys and values that stand in front of a slot's tokens in place of its adapter's
                own, (layers, 2, P, kv_heads, hd); the trie is built with `prefix={slot: P}`.
            edges_only: states will be read only where edges start; others may mean nothing.

        Raises:
            NotImplementedError: for `record` or `front` on a base that cannot carry the trie.
        """
        if not self.carries_trie:
            if record is not None or front is not None:
                raise NotImplementedError(self.why_not)
            return padded.forward(self, trie)
        self._arrange()
        plan = TriePlan(trie, {**self.front(trie), **(front or {})}, record)
        embeddings, positions = self.embed(trie.ids, plan.slots), trie.positions.to(self.device)
        if edges_only and record is None and not plan.in_front:
            return self.depth.run_read(embeddings, positions, plan, np.unique(trie.source.numpy()))
        return self.run(embeddings, positions, plan)

    def front(self, trie: Trie) -> dict[int, Tensor]:
        """Keys and values in front, of the slots that a trie uses."""
        here = set(trie.slots.unique().tolist())
        kept = {s: a.keys_values for s, a in self.adapters.items() if s in here}
        return {s: kv for s, kv in kept.items() if kv is not None}

    def embed(self, ids: Tensor, slots: Slots) -> Tensor:
        """(T,) indices, virtual ones negative -> (T, d)."""
        table = self.model.get_input_embeddings()
        self.slots = slots
        out = table(ids.clamp(min=0).to(self.device)[None])[0]
        for slot in slots.present:
            adapter = self.adapters.get(slot)
            if adapter is None or adapter.embeddings is None:
                continue
            mine = torch.from_numpy(slots.of_token == slot) & (ids < 0).cpu()
            at = mine.nonzero()[:, 0]
            vectors = adapter.embeddings[-ids[at] - 1].to(out.dtype)
            out = out.index_copy(0, at.to(self.device), vectors)
        return out

    def run(self, embeddings: Tensor, positions: Tensor, plan: Plan) -> Tensor:
        """One pass of the backbone over a flat row: (T, d), (T,) -> (T, d).

        The plan stays until the next pass, so that recomputation in the backward pass finds it.
        """
        self.plan, self.slots = plan, plan.slots
        out = self.backbone(
            inputs_embeds=embeddings[None], position_ids=positions[None], use_cache=False
        )
        return out.last_hidden_state[0]

    def _arrange(self) -> None:
        """Have layers computed in fewer steps of autograd, where the base allows it."""
        if self._in_blocks is None and torch.is_grad_enabled():
            self._in_blocks = False
            self._in_blocks = training.attach(self)

    @cached_property
    def depth(self) -> LayerRange:
        """The base's layers, as places to stop at and to start from."""
        return LayerRange(self)

    def run_from(
        self,
        layer: int,
        hidden: Tensor,
        positions: Tensor,
        plan: Plan,
        read: np.ndarray | None = None,
    ) -> Tensor:
        """The rest of a pass from what enters a layer: (T, d), (T,) -> (T, d); see `LayerRange`."""
        self._arrange()
        return self.depth.run_from(layer, hidden, positions, plan, read)

    def logits(self, hidden: Tensor, slots: Slots | Iterable[int]) -> Tensor:
        """(N, d) and each row's slot -> (N, vocabulary), each through its own adapter's head."""
        slots = slots if isinstance(slots, Slots) else Slots(list(slots))
        if slots.only is not None:
            return self.head(slots.only).logits(hidden)
        # All that share the base's own output layer go through it at once: its weights are read once.
        own = [s for s in slots.present if self._owns_weights(s)]
        if not own:
            return self.head(-1).logits(hidden)
        shared = torch.from_numpy(~np.isin(slots.of_token, own))
        out: Tensor | None = None
        for head, rows in [
            (self.head(-1), shared.to(hidden.device)),
            *((self.head(s), slots.rows(s)) for s in own),
        ]:
            part = head.logits(hidden[rows])
            if out is None:
                out = part.new_empty(len(hidden), part.shape[1])
            out[rows] = part
        assert out is not None
        return out

    def _owns_weights(self, slot: int) -> bool:
        adapter = self.adapters.get(slot)
        return adapter is not None and bool(adapter.weights)

    def head(self, slot: int) -> Head:
        """The output layer of a slot."""
        module = self.model.get_output_embeddings()
        weight, bias = module.weight, getattr(module, "bias", None)
        adapter = self.adapters.get(slot)
        if adapter is not None and adapter.weights:
            own = adapter.weights
            weight = next((own[n] for n in self._names(weight) if n in own), weight)
            if bias is not None:
                bias = next((own[n] for n in self._names(bias) if n in own), bias)
        softcap = getattr(self.config, "final_logit_softcapping", None)
        scale = getattr(self.config, "logit_scale", None) or 1.0
        divisor = getattr(self.config, "logits_scaling", None) or 1.0
        return Head(weight, bias, softcap, scale / divisor)

    def _names(self, parameter: Tensor) -> list[str]:
        """The names that a parameter has; tied weights have several."""
        known = self._named.get(id(parameter))
        if known is None or known[0] is not parameter:
            named = self.model.named_parameters(remove_duplicate=False)
            known = self._named[id(parameter)] = parameter, [n for n, p in named if p is parameter]
        return known[1]

    # --- which bases carry a trie ---------------------------------------------------------------

    def _takes_trie_attention(self) -> None:
        register()
        for module in self.model.modules():
            if hasattr(module, "layer_idx"):
                module.rung_bank = self
        if not getattr(self.model, "_supports_attention_backend", False):
            self.carries_trie = False
            self.why_not = f"{type(self.model).__name__} brings its own attention"
            return
        try:
            self.model.set_attn_implementation("rung")
            self.why_not = padded.difference(self)
        except (ValueError, NotImplementedError, TypeError, KeyError, AttributeError) as fault:
            self.why_not = " ".join(str(fault).split()) or type(fault).__name__
        if self.why_not:
            self.carries_trie = False
            self.model.set_attn_implementation(self._own_attention)


class Head:
    """The output layer: weight (V, d), bias (V,) or None, and what the base does to its logits."""

    def __init__(self, weight: Tensor, bias: Tensor | None, softcap: float | None, scale: float):
        self.weight, self.bias, self.softcap, self.scale = weight, bias, softcap, scale

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, d) -> (N, V)."""
        out = nn.functional.linear(hidden, self.weight.to(hidden.dtype), self.bias)
        if self.scale != 1.0:
            out = out * self.scale
        if self.softcap:
            out = torch.tanh(out / self.softcap) * self.softcap
        return out
