"""One frozen base, many adapters.

The bank attaches to a Hugging Face causal language model and holds adapters of any kind in slots. Each
token of a batch carries a slot, so that one forward pass serves different adapters side by side. A
seam is put into the base only where a resident adapter needs it. Which implementation computes a pass
is picked here and nowhere else, see `Bank._implementation`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rung.forward import fits, padded, probe, recompute, sight, token_rows
from rung.forward.adapter import Adapter
from rung.forward.attention import Plan, TriePlan, register
from rung.forward.backbone import Record
from rung.forward.compiled import integers
from rung.forward.compiled.decoder import CompiledDecoder
from rung.forward.layer_range import LayerRange
from rung.forward.llama import training
from rung.forward.llama.inference import LlamaInference
from rung.forward.llama.prepacked import Packing
from rung.forward.op import LinearOp
from rung.forward.output_layers import OutputLayers
from rung.forward.seam import Seam
from rung.forward.slots import Slots
from rung.forward.switch import switch_attention
from rung.forward.trie import Sequence, Trie


class Bank(OutputLayers):
    """A base with its resident adapters.

    Attributes:
        adapters: the resident ones, by slot.
        layers: the base's own layers, as places to stop at and to start from.
        own_attention: the attention that the model came with.
    """

    def __init__(self, model: Any, digest: str = ""):
        super().__init__(model, digest)
        self.adapters: dict[int, Adapter] = {}
        self.layers = LayerRange(self)
        self._seams: dict[str, Seam] = {}
        self._next = 0
        self._training: bool | None = None  # whether layers train in two steps; None: not tried
        self._keep: Callable[[], None] | None = None  # undoes recomputation
        self.own_attention = model.config._attn_implementation
        register()
        integers.attach(self)
        self.findings = probe.examine(self, lambda: switch_attention(self))
        self.why_not = self.findings.trie

    def close(self) -> None:
        """Give the model back as it was, for another bank to hold; this one is of no use then."""
        for slot in list(self.adapters):
            self.remove(slot)
        self.recompute(False)
        if self._training:
            training.detach(self)
        integers.detach(self)
        self.model.set_attn_implementation(self.own_attention)
        super().close()

    def add(self, adapter: Adapter) -> int:
        """Make an adapter resident.

        Returns:
            its slot.

        Raises:
            ArtefactError: when it names a module or parameter that the base does not have, or one of
                another shape. The bank is then unchanged.
        """
        fits.check(self, adapter)
        slot = self.reserve()
        self.put(slot, adapter)
        return slot

    def reserve(self) -> int:
        """A slot of its own for an adapter that is put there later."""
        slot, self._next = self._next, self._next + 1
        return slot

    def put(self, slot: int, adapter: Adapter) -> None:
        """Make an adapter resident in a slot, in place of what was there."""
        fits.check(self, adapter)
        self.remove(slot)
        self.adapters[slot] = adapter
        for name, op in adapter.linear.items():
            self._seam(name).set(slot, op)
        for name, tensor in self._spelled_weights(adapter).items():
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

    def positions(self, slot: int) -> int:
        """Positions of the context that a slot's adapter takes in front of every prompt."""
        adapter = self.adapters.get(slot)
        return 0 if adapter is None else adapter.positions

    def frozen_below(self, adapter: Adapter) -> int:
        """The boundary below which an adapter changes nothing; 0 where it changes something at the
        bottom, or where that cannot be told."""
        if adapter.positions or adapter.sight is not None or adapter.tokens is not None:
            return 0
        touched = [*adapter.linear, *(n.rpartition(".")[0] for n in self._spelled(adapter))]
        return min((self.layers.boundary_of(name) for name in touched), default=0)

    def _spelled(self, adapter: Adapter) -> Iterator[str]:
        """Every name of every parameter that the adapter replaces; tied weights have several."""
        own = dict(self.model.named_parameters(remove_duplicate=False))
        for name in adapter.weights:
            yield name
            if name in own:
                yield from self.names(own[name])

    def _seam(self, name: str) -> Seam:
        if name not in self._seams:
            self._seams[name] = Seam(self.modules[name], self)
        return self._seams[name]

    def _changes(self, slot: int, module: str) -> tuple[list[LinearOp], Mapping[str, Tensor]]:
        """What a slot's adapter does at a module: operations, and its own parameters there."""
        seam = self._seams.get(module)
        if seam is None:
            return [], {}
        return [ops[slot] for ops in seam.ops.values() if slot in ops], seam.weights.get(slot, {})

    @contextlib.contextmanager
    def own_weights(self, slot: int) -> Iterator[None]:
        """Put a slot's own weights in the place of the base's, for a pass of that slot alone: even
        those are reached that are read without calling their module."""
        adapter = self.adapters.get(slot)
        replaced: dict[tuple[nn.Module, str], Any] = {}
        for name, tensor in ({} if adapter is None else self._spelled_weights(adapter)).items():
            module, _, leaf = name.rpartition(".")
            owner = self.modules[module]
            replaced[owner, leaf] = own = owner._parameters[leaf]
            owner._parameters[leaf] = tensor.to(own.dtype)  # type: ignore[union-attr, assignment]
        try:
            yield
        finally:
            for (owner, leaf), own in replaced.items():
                owner._parameters[leaf] = own

    def _spelled_weights(self, adapter: Adapter) -> dict[str, Tensor]:
        """An adapter's own weights by every name: tied ones change together, unless told apart."""
        own = dict(self.model.named_parameters(remove_duplicate=False))
        return {
            spelled: tensor
            for name, tensor in adapter.weights.items()
            for spelled in self.names(own[name])
            if spelled == name or spelled not in adapter.weights
        }

    def trie(self, sequences: Iterable[Sequence], prune: bool = False) -> Trie:
        """A trie of sequences, with what their adapters put in front; see `Trie.build`."""
        known = self.adapters.items()
        soft = {s: len(a.embeddings) for s, a in known if a.embeddings is not None}
        prefix = {s: a.keys_values.shape[2] for s, a in known if a.keys_values is not None}
        begun = (a.begun(s) if (a := self.adapters.get(s.slot)) else s for s in sequences)
        return Trie.build(begun, soft, prefix, prune, self.shares)

    def forward(
        self,
        trie: Trie,
        record: Record | None = None,
        front: dict[int, Tensor] | None = None,
        *,
        read: np.ndarray | None = None,
        edges_only: bool = False,
    ) -> Tensor:
        """Hidden states after the final norm, (T, d).

        Args:
            trie: built by `trie` for the adapters that are resident now.
            record: called per layer with the row's keys and values, each (T, kv_heads, hd).
            front: keys and values that stand in front of a slot's tokens in place of its adapter's
                own, (layers, 2, P, kv_heads, hd); the trie is built with `prefix={slot: P}`.
            read: ascending indices of the tokens whose states are wanted: -> (len(read), d).
            edges_only: states will be read only where edges start; others may mean nothing.

        Raises:
            NotImplementedError: for `record` or `front` on a base that cannot carry the trie.
        """
        if not self.carries_trie:
            if record is not None or front is not None:
                raise NotImplementedError(self.why_not)
            hidden = padded.forward(self, trie, self.entering(trie), self.front(trie))
            return hidden if read is None else hidden[torch.from_numpy(read)]
        plan = TriePlan(trie, {**self.front(trie), **(front or {})}, record)
        embeddings = self.embed(trie.ids, plan.slots)
        return self._pass(None, embeddings, trie, plan, read, edges_only)

    def forward_from(
        self, boundary: int, hidden: Tensor, trie: Trie, *, edges_only: bool = False
    ) -> Tensor:
        """As `forward`, from what enters a layer: hidden (T, d), see `LayerRange`."""
        return self._pass(boundary, hidden, trie, TriePlan(trie), None, edges_only)

    def _pass(
        self,
        first: int | None,
        entering: Tensor,
        trie: Trie,
        plan: TriePlan,
        read: np.ndarray | None,
        edges_only: bool,
    ) -> Tensor:
        positions = trie.positions.to(self.device)
        if edges_only and self._implementation(plan) is self.layers:
            sources = np.unique(trie.source.numpy())
            return self.layers.run_at(entering, positions, plan, sources, first)
        return self.run(entering, positions, plan, first=first, read=read)

    def states(self, trie: Trie, wanted: Collection[int]) -> dict[int, Tensor]:
        """Hidden states at boundaries, see `LayerRange`: boundary -> (T, d). No layer above is run.

        Raises:
            NotImplementedError: where the base has no list of layers, or, for a base that does not
                carry tries, when rows belong to adapters.
        """
        if not self.carries_trie:
            return padded.states(self.layers, trie, self.entering(trie), wanted)
        plan = TriePlan(trie, self.front(trie))
        embeddings, positions = self.embed(trie.ids, plan.slots), trie.positions.to(self.device)
        how = self._implementation(plan)
        assert not isinstance(how, CompiledDecoder)  # which takes lanes, and a trie has none
        return how.states(embeddings, positions, plan, wanted)

    def front(self, trie: Trie) -> dict[int, Tensor]:
        """Keys and values in front, of the slots that a trie uses."""
        here = trie.slots.unique().tolist()
        fronts = ((s, a.keys_values) for s, a in self.adapters.items() if s in here)
        return {slot: kv for slot, kv in fronts if kv is not None}

    def embed(self, ids: Tensor, slots: Slots) -> Tensor:
        """(T,) indices, virtual ones negative, those of pictures beyond the vocabulary -> (T, d)."""
        sights, own, held = sight.of(self.adapters), super().embed, self.token_rows(slots)
        if held:
            own = functools.partial(token_rows.embed, held, words=own, scale=self.embedding_scale)
        out = sight.embed(sights, ids, slots, own, self.mean_embedding) if sights else own(ids, slots)
        for slot in slots.present:
            adapter = self.adapters.get(slot)
            if adapter is not None and adapter.embeddings is not None:
                at = (torch.from_numpy(slots.of_token == slot) & (ids < 0).cpu()).nonzero()[:, 0]
                vectors = adapter.embeddings[-ids[at] - 1].to(out.dtype)
                out = out.index_copy(0, at.to(self.device), vectors)
        return out

    def run(
        self,
        entering: Tensor,
        positions: Tensor,
        plan: Plan,
        *,
        first: int | None = None,
        read: np.ndarray | None = None,
    ) -> Tensor:
        """One pass over a flat row by the fastest implementation that can compute its adapters:
        (T, d), (T,) -> (T, d) after the final norm; `first` and `read` as for `LayerRange.run`.

        The plan stays until the next pass, so that recomputation in the backward pass finds it.
        """
        return self._implementation(plan).run(entering, positions, plan, first=first, read=read)

    def _implementation(self, plan: Plan) -> LayerRange | LlamaInference | CompiledDecoder:
        """Pick what computes a pass: a compiled step for few rows that decode, or Llama inference, both
        without gradients, where the base is built for it and all adapters are LoRA, steer or stand in
        front; else the base's own layers, which train in two steps each where the base is built for
        that. Padded rows are left: they have no flat row.
        """
        compiled = self.decoder_for(plan)
        if compiled is not None:
            return compiled
        if not torch.is_grad_enabled() and self.inference is not None and self.inference.suits(plan):
            return self.inference
        if torch.is_grad_enabled():
            self._train_in_steps()
        return self.layers

    def decoder_for(self, plan: Any) -> CompiledDecoder | None:
        """The compiled step of decoding, where it computes a pass of that plan."""
        if not plan.one_token_per_lane or torch.is_grad_enabled():
            return None
        return self.compiled if self.compiled is not None and self.compiled.suits(plan) else None

    def _train_in_steps(self) -> None:
        if self._training is None:
            self._training = False
            self._training = training.attach(self, self._changes)

    @property
    def recomputes(self) -> bool:
        """Whether backward passes compute activations again in place of keeping them."""
        return self._keep is not None

    def recompute(self, wanted: bool) -> None:
        """Compute activations again in backward passes from now on, or keep them; only where the base
        carries tries, since padded rows are few."""
        if self._keep is not None and not wanted:
            self._keep()
            self._keep = None
        elif self._keep is None and wanted and self.carries_trie and self.layer_names:
            self._train_in_steps()
            self._keep = recompute.attach(self)

    @functools.cached_property
    def compiled(self) -> CompiledDecoder | None:
        """Compiled steps of decoding, where a compiler is found and the base is built for it."""
        return CompiledDecoder.of(self, self.adapters)

    @functools.cached_property
    def inference(self) -> LlamaInference | None:
        """Llama inference, where the base is built for it."""
        return LlamaInference.of(self, self.adapters)

    def compute_as_in_training(self) -> None:
        """Multiply codes by float32 inputs from now on: log-probabilities are then a training's."""
        integers.detach(self)
        self.__dict__.pop("compiled", None)  # steps over codes are not for such a base

    def dummy_pass(self, tokens: int) -> None:
        """Read so many tokens of no meaning, whose time is that of any others."""
        self.forward(self.trie([Sequence((0,) * tokens)]))

    @property
    def preparing_bytes(self) -> int:
        """Bytes that `prepare` may still take, at most."""
        packable = 0 if self.inference is None else self.inference.packable_bytes
        return packable + integers.layable_bytes(self)

    def prepare(self, packing: Packing, decoding: bool = False) -> None:
        """Lay weights out for products of so many rows, where the base is built for it.

        Args:
            decoding: join the base's weights too, for steps of few tokens, and pack its output layer.
        """
        compiled = self.compiled if decoding else None  # which reads float32 weights as they are
        if compiled is not None:
            compiled.lay()
        if compiled is not None and packing.rows <= compiled.max_rows or self.inference is None:
            return
        if decoding and not self.inference.joins:
            self.inference.join()
            self.__dict__.pop("compiled", None)  # the weights have moved
        self.inference.pack(packing, head=decoding)
        self._check_inference()

    def join(self) -> None:
        """Join the weights of projections that read the same input, for many passes without gradients.

        They stay the base's own parameters, as views; a second call does nothing.
        """
        if self.inference is not None and not self.inference.joins:
            self.inference.join()
            self.__dict__.pop("compiled", None)
            self._check_inference()

    def _check_inference(self) -> None:
        """Leave the fast pass to the base's own layers where it no longer agrees with them."""
        if self.inference is not None and not self.inference.agrees():
            self.__dict__["inference"] = None

    def forget_arrangements(self) -> None:
        """Give back the memory in which adapters are arranged for passes without gradients."""
        if (inference := self.__dict__.get("inference")) is not None:
            inference.stacks.clear()
        if (compiled := self.__dict__.get("compiled")) is not None:
            compiled.changes.clear()

    def own_logits(self, hidden: Tensor) -> Tensor:
        """(N, d) -> (N, V) by the base's own output layer, by the fastest way that is there."""
        if torch.is_grad_enabled():
            return self.own_head().logits(hidden)
        compiled = self.__dict__.get("compiled")
        if compiled is not None and (found := compiled.logits(hidden)) is not None:
            return found
        return (
            self.own_head().logits(hidden) if self.inference is None else self.inference.logits(hidden)
        )
