"""A decoding step through all layers in one compiled call, for bases built like Llama on a CPU.

One token per lane is little arithmetic: what a step takes is reading the weights, if nothing else gets
in the way. Torch's operations do: some fifteen for each layer, each with threads that begin and end.
Here threads go through all layers together and read each weight once for all rows, as it is held, with
the adapters' LoRA and steering vectors beside it. Weights of codes are multiplied as `integers` says.

Only steps go this way whose rows are few and whose adapters do nothing else to layers; `suits` says so.
"""

from __future__ import annotations

import ctypes as c
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rung.bases.quantized import Quantized
from rung.forward import selfcheck
from rung.forward.adapter import Adapter
from rung.forward.attention import TriePlan
from rung.forward.backbone import Backbone
from rung.forward.compiled import compiler, integers
from rung.forward.compiled.changes import Changes
from rung.forward.compiled.integers import MIN_NUMBERS, multiply
from rung.forward.compiled.structures import PARTS, Base, Layer, Step, Weight, readable, weight_of
from rung.forward.llama.detect import GROUPS, built_like_llama
from rung.forward.slots import Slots
from rung.forward.trie import Sequence as Row
from rung.forward.trie import Trie

MAX_ROWS = 64  # of a step in float32; with more, torch's products are faster (bench/RESULTS.md)
MAX_CODED_ROWS = 128  # of a step over codes
NAMES = [name for names in GROUPS.values() for name in names]

log = logging.getLogger("rung.forward")


class KeysAndValues(Protocol):
    """Keys and values by lane, as the engine's KV cache holds them.

    Attributes:
        k, v: per layer (lanes, key heads, capacity, head width).
    """

    k: list[Tensor]
    v: list[Tensor]

    @property
    def capacity(self) -> int:
        """Positions of a lane."""
        ...


@dataclass
class Lanes:
    """Keys and values by themselves."""

    k: list[Tensor]
    v: list[Tensor]

    @property
    def capacity(self) -> int:
        """Positions of a lane."""
        return self.k[0].shape[2]


@dataclass(frozen=True)
class LastTokens:
    """The plan of a step by itself: a token behind each of some lanes, or several behind one."""

    cache: KeysAndValues
    lanes: Tensor
    slots: Slots
    one_token_per_lane = True


class CompiledDecoder:
    """Steps of decoding; made by `CompiledDecoder.of`.

    Args:
        adapters: by slot, as the bank holds them.
    """

    def __init__(self, library: Any, backbone: Backbone, adapters: Mapping[int, Adapter]):
        self.library, self.backbone = library, backbone
        base: Any = backbone.base_model
        self.rotary = base.rotary_emb
        self.changes = Changes(backbone, adapters, NAMES)
        self._held: list[Any] = []
        self._head: tuple[Tensor, Weight] | None = None
        attention, first = base.layers[0].self_attn, base.layers[0]
        self.coded = isinstance(attention.q_proj.weight, Quantized)
        self.max_rows = MAX_CODED_ROWS if self.coded else MAX_ROWS
        self._layers = (Layer * len(base.layers))(*map(self._layer, base.layers))
        self._take_panels()
        self.base = Base(
            c.addressof(self._layers), self._pointer(base.norm.weight), len(base.layers),
            backbone.width, attention.q_proj.out_features // attention.head_dim,
            attention.k_proj.out_features // attention.head_dim, attention.head_dim,
            first.mlp.gate_proj.out_features, base.norm.variance_epsilon, attention.scaling,
        )  # fmt: skip

    @classmethod
    def of(
        cls, backbone: Backbone, adapters: Mapping[int, Adapter], min_numbers: int = MIN_NUMBERS
    ) -> CompiledDecoder | None:
        """Make it for a base; None where that is built otherwise, or nothing can be compiled.

        Args:
            min_numbers: in the table of embeddings; with fewer, compiling is not worth its time.
        """
        if backbone.device.type != "cpu" or backbone.dtype != torch.float32:
            return None
        if backbone.table_size < min_numbers:
            return None
        if not built_like_llama(backbone, readable) or not _alike(backbone):
            return None
        base: Any = backbone.base_model
        weight = base.layers[0].self_attn.q_proj.weight
        if isinstance(weight, Quantized) and weight.integers is None:
            return None  # codes of this base meet float32 inputs, and steps code theirs
        library = compiler.library()
        if library is None:
            return None
        made = cls(library, backbone, adapters)
        return made if made.agrees() else None

    def _layer(self, layer: Any) -> Layer:
        modules = dict(layer.named_modules())
        weights = (Weight * PARTS)(*(self._weight(modules[name]) for name in NAMES))
        norms = layer.input_layernorm, layer.post_attention_layernorm
        pointers = (c.c_void_p * 2)(*(self._pointer(n.weight) for n in norms))
        return Layer(weights, pointers, (c.c_float * 2)(*(n.variance_epsilon for n in norms)))

    def lay(self) -> None:
        """Hold codes once more in the order in which steps read them; see `integers.lay`."""
        if self.coded:
            integers.lay(self.backbone)
            self._take_panels()

    def _take_panels(self) -> None:
        """Read codes in panels where they are there."""
        base: Any = self.backbone.base_model
        for structure, layer in zip(self._layers, base.layers, strict=True):
            modules = dict(layer.named_modules())
            for place, name in enumerate(NAMES):
                product = getattr(modules[name].weight, "integers", None)
                if product is not None:
                    structure.weights[place].panels = product.structure.panels
                    self._held.append(product)

    def _weight(self, module: Any) -> Weight:
        weight, held = weight_of(module.weight, module.bias)
        self._held += held
        return weight

    def _pointer(self, tensor: Tensor) -> int:
        self._held.append(tensor.detach().float().contiguous())
        return self._held[-1].data_ptr()

    # --- one step ---------------------------------------------------------------------------------

    def suits(self, plan: Any) -> bool:
        """Whether a pass is a step of few rows whose adapters can be computed here."""
        if not plan.one_token_per_lane or len(plan.slots.of_token) > self.max_rows:
            return False
        return self.changes.of(plan.slots) is not None

    def run(
        self, entering: Tensor, positions: Tensor, plan: Any, *, first: Any = None, read: Any = None
    ) -> Tensor:
        """As `LayerRange.run`, from the bottom, for all rows: (B, d) -> (B, d) after the final norm."""
        assert first is None and read is None
        rows, cache = len(entering), plan.cache
        entering, leaving = entering.contiguous(), torch.empty_like(entering)
        cosines, sines = (x[0].contiguous() for x in self.rotary(entering[None], positions[None]))
        lanes, places = plan.lanes.contiguous(), positions.contiguous()
        changes = self.changes.of(plan.slots)
        assert changes is not None
        adapters = (c.c_void_p * rows)(*(changes.address(s) for s in plan.slots.of_token.tolist()))
        count = len(cache.k)
        keys = (c.c_void_p * count)(*(t.data_ptr() for t in cache.k))
        values = (c.c_void_p * count)(*(t.data_ptr() for t in cache.v))
        step = Step(
            rows, cache.capacity, changes.max_rank, torch.get_num_threads(), lanes.data_ptr(),
            places.data_ptr(), entering.data_ptr(), cosines.data_ptr(), sines.data_ptr(),
            c.addressof(keys), c.addressof(values), c.addressof(adapters), leaving.data_ptr(),
        )  # fmt: skip
        self.library.rung_step(c.byref(self.base), c.byref(step))
        return leaving

    # --- the output layer -------------------------------------------------------------------------

    def logits(self, hidden: Tensor) -> Tensor | None:
        """(N, d) -> (N, vocabulary) by the base's own output layer; None where it is not read here."""
        weight = self._head_weight() if len(hidden) <= MAX_ROWS else None
        return None if weight is None else multiply(self.library, weight, hidden)

    def _head_weight(self) -> Weight | None:
        head = self.backbone.own_head()
        if not head.plain or not readable(head.weight):
            return None
        if isinstance(head.weight, Quantized):
            product = head.weight.integers if torch.is_inference_mode_enabled() else None
            return product.structure if isinstance(product, integers.Product) else None
        if self._head is None or self._head[0] is not head.weight:
            weight, held = weight_of(head.weight, None)
            self._held += held
            self._head = head.weight, weight
        return self._head[1]

    # --- whether it is right ----------------------------------------------------------------------

    def agrees(self) -> bool:
        """Check two rows of different lengths against the base's own forward."""

        def compute() -> list[tuple[Tensor, Tensor]]:
            with torch.inference_mode():
                return [self._compare(self.backbone.vocabulary)]

        fault = selfcheck.fault(compute, self.backbone.dtype, coded=self.coded)
        if fault is not None:
            log.warning("decoding goes through torch: compiled %s", fault)
        return fault is None

    def _compare(self, vocabulary: int) -> tuple[Tensor, Tensor]:
        """The states of two last tokens: by a step behind what the base's own forward left; its own."""
        texts = [[(100 + 37 * i) % vocabulary for i in range(n)] for n in (5, 8)]
        trie = Trie.build([Row(tuple(text)) for text in texts], share=False)
        keys: list[Tensor] = []
        values: list[Tensor] = []

        def record(_: int, k: Tensor, v: Tensor) -> None:
            keys.append(k)
            values.append(v)

        plan = TriePlan(trie, record=record)
        positions = trie.positions.to(self.backbone.device)
        own = self.backbone.run_own(self.backbone.embed(trie.ids, plan.slots), positions, plan)
        ends = [int(row[-1]) for row in trie.rows]
        before = [torch.from_numpy(row[:-1]) for row in trie.rows]
        cache = Lanes(k=[_laid(x, before) for x in keys], v=[_laid(x, before) for x in values])
        step = LastTokens(cache, torch.arange(len(texts)), Slots([-1] * len(texts)))
        entering = self.backbone.embed(torch.tensor([text[-1] for text in texts]), step.slots)
        at = torch.tensor([len(text) - 1 for text in texts])
        return self.run(entering, at, step), own[ends]


def _laid(states: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """Keys or values of a flat row (T, heads, width) by lane, with room for one more token."""
    out = states.new_zeros(len(rows), states.shape[1], max(map(len, rows)) + 1, states.shape[2])
    for lane, row in zip(out, rows, strict=True):
        lane[:, : len(row)] = states[row].transpose(0, 1)
    return out


def _alike(backbone: Backbone) -> bool:
    """Whether all layers have the shapes and the scaling of the first, and heads of even width."""
    base: Any = backbone.base_model
    shapes = {
        (
            *(tuple(layer.get_submodule(name).weight.shape) for name in NAMES),
            layer.self_attn.head_dim,
            layer.self_attn.scaling,
        )
        for layer in base.layers
    }
    return len(shapes) == 1 and base.layers[0].self_attn.head_dim % 2 == 0
