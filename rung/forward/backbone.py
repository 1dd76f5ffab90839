"""A frozen base model: its facts, and one pass of its own layers over a flat row of tokens.

What needs the base and not the adapters takes a `Backbone`; `Bank` is one with adapters on top.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from rung.errors import ConfigError
from rung.forward import attention
from rung.forward.attention import Plan, TriePlan
from rung.forward.findings import Findings
from rung.forward.slots import Slots
from rung.forward.trie import Sequence, Trie
from rung.types import Modality

DEFAULT_CONTEXT = 2048  # tokens, for a base whose config names no longest sequence (ALiBi, say)

Record = Callable[[int, Tensor, Tensor], None]


class Backbone(ABC):
    """A Hugging Face causal language model whose attention goes by the `plan` of the pass that runs.

    Args:
        model: its parameters are frozen.
        digest: of the base, by which what is computed of it is kept; "" keeps nothing on disk.

    Attributes:
        reads: what is asked of it.
        base_model: the model without its output layer, as transformers calls it.
        config: of the text model.
        modules: by name.
        layer_names: of the decoder layers, first to last; empty where no list of them was found.
        plan, slots: of the pass that runs, and afterwards of the last one, so that recomputation in
            a backward pass finds them.
        why_not: the reason why the base's attention cannot run on a trie; None where it can.
        findings: what the probe found, see `rung/forward/probe.py`.

    Raises:
        ConfigError: when another backbone holds the model; `close` that one first.
    """

    reads: ClassVar[Modality] = "text"

    def __init__(self, model: Any, digest: str = ""):
        self.digest = digest
        self.model = model.eval().requires_grad_(False)
        self.config = model.config.get_text_config()
        self.base_model: nn.Module = _without_head(model)
        self.modules: dict[str, nn.Module] = dict(model.named_modules())
        self.layer_names = layer_names(model, self.config.num_hidden_layers)
        self.plan: Plan | None = None
        self.slots: Slots | None = None
        self.why_not: str | None = None
        self.findings = Findings()
        self._named: dict[int, tuple[Tensor, list[str]]] = {}
        if not attention.attach(model, self):
            raise ConfigError(
                f"this {type(model).__name__} is in a Bank already, and one model can be in one only: "
                "use that bank, or close() it first"
            )

    def close(self) -> None:
        """Let go of the model, so that another backbone can hold it; this one is of no use then."""
        attention.detach(self.model, self)
        self.plan = self.slots = None

    # --- facts --------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self._embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self._embeddings.weight.dtype

    @property
    def vocabulary(self) -> int:
        """Number of token ids that can be embedded."""
        return self._embeddings.weight.shape[0]

    @property
    def table_size(self) -> int:
        """Weights of the table of embeddings."""
        return self._embeddings.weight.numel()

    @property
    def width(self) -> int:
        """Numbers in a token's embedding."""
        return self._embeddings.weight.shape[1]

    @property
    def context(self) -> int:
        """The longest sequence in tokens."""
        return getattr(self.config, "max_position_embeddings", None) or DEFAULT_CONTEXT

    @property
    def carries_trie(self) -> bool:
        """Whether the base's attention can run on a trie; where not, batches go as padded rows."""
        return self.why_not is None

    @property
    def shares(self) -> bool:
        """Whether a token's states follow from what stands before it alone, so that rows that begin
        alike can share them."""
        return self.findings.causal is None and self.findings.together is None

    @property
    def _embeddings(self) -> Any:
        return self.model.get_input_embeddings()

    def weight(self, name: str) -> Tensor:
        """The weight of a module, by the module's name."""
        return self.model.get_parameter(f"{name}.weight")

    def names(self, parameter: Tensor) -> list[str]:
        """The names that a parameter has; tied weights have several."""
        known = self._named.get(id(parameter))
        if known is None or known[0] is not parameter:
            named = self.model.named_parameters(remove_duplicate=False)
            known = self._named[id(parameter)] = parameter, [n for n, p in named if p is parameter]
        return known[1]

    # --- one pass -----------------------------------------------------------------------------

    def embed(self, ids: Tensor, slots: Slots) -> Tensor:
        """(T,) vocabulary indices -> (T, d)."""
        self.slots = slots
        return self._embeddings(ids.clamp(min=0).to(self.device)[None])[0]

    def mean_embedding(self) -> Tensor:
        """The mean of all embeddings, (d,): what stands for a picture where nobody sees it."""
        return self._embeddings.weight.float().mean(0)

    @abstractmethod
    def run(
        self,
        entering: Tensor,
        positions: Tensor,
        plan: Plan,
        *,
        first: int | None = None,
        read: np.ndarray | None = None,
    ) -> Tensor:
        """One pass over a flat row from a boundary to the end, see `LayerRange.run`."""

    @abstractmethod
    def states(self, trie: Trie, wanted: Collection[int]) -> dict[int, Tensor]:
        """Hidden states at boundaries, see `LayerRange`: boundary -> (T, d)."""

    @abstractmethod
    def prepare(self, packing: Any, decoding: bool = False) -> None:
        """Lay weights out for products of many rows or for decoding, where the base is built for it."""

    @cached_property
    def uncalled(self) -> frozenset[str]:
        """Modules whose own module is called in a pass and that are not: their weights are read by
        others. An expert that no token was sent to does not count."""
        called = self._called
        return frozenset(n for n in self.modules if n not in called and n.rpartition(".")[0] in called)

    @cached_property
    def beside_text(self) -> tuple[str, ...]:
        """Modules that no text calls, nor anything in them, such as a tower that reads pictures."""
        called = self._called
        quiet = (n for n in self.uncalled if next(self.modules[n].children(), None) is not None)
        return tuple(n for n in quiet if not any(c.startswith(f"{n}.") for c in called))

    @property
    def many_valued(self) -> frozenset[str]:
        """Modules that answer with several things in place of one tensor, such as routers, or with
        another width than they name, such as projections in groups."""
        return frozenset(n for n, one in self._called.items() if not one)

    @cached_property
    def _called(self) -> dict[str, bool]:
        """Modules that are called in a small pass, and whether they answer with one row for a row."""
        called: dict[str, bool] = {}

        def noting(name: str) -> Callable[..., None]:
            def note(module: Any, args: Any, out: Any) -> None:
                width = getattr(module, "out_features", None)
                called[name] = isinstance(out, Tensor) and (width is None or out.shape[-1] == width)

            return note

        hooks = [m.register_forward_hook(noting(name)) for name, m in self.modules.items()]
        plan, slots = self.plan, self.slots
        try:
            with torch.no_grad():
                self.run_tiny()
        finally:
            self.plan, self.slots = plan, slots
            for hook in hooks:
                hook.remove()
        return called

    def read_by_others(self, parameter: str) -> bool:
        """Whether a pass reads a parameter without calling the module that has it."""
        return parameter.rpartition(".")[0] in self.uncalled

    def unread(self, parameters: Iterable[str]) -> frozenset[str]:
        """Those of some parameters that a text goes past, as what reads pictures: of modules
        that no text calls, without a gradient in a small pass."""
        named = dict(self.model.named_parameters())
        inside = tuple(f"{name}." for name in self.beside_text)
        asked = {n: named[n] for n in parameters if self.read_by_others(n) or n.startswith(inside)}
        asked = {n: p for n, p in asked.items() if p.is_floating_point()}
        before = [p.requires_grad for p in asked.values()]
        plan, slots = self.plan, self.slots
        try:
            with torch.enable_grad():
                for parameter in asked.values():
                    parameter.requires_grad_(True)
                out = self.run_tiny().float().sum()
                found = (
                    torch.autograd.grad(out, list(asked.values()), allow_unused=True)
                    if asked and out.requires_grad
                    else [None] * len(asked)
                )
        finally:
            self.plan, self.slots = plan, slots
            for parameter, wanted in zip(asked.values(), before, strict=True):
                parameter.requires_grad_(wanted)
        return frozenset(n for n, gradient in zip(asked, found, strict=True) if gradient is None)

    def own_weights(self, slot: int) -> AbstractContextManager[None]:
        """Put a slot's own weights in the place of the base's while a pass of that slot runs."""
        return nullcontext()

    def run_own(self, embeddings: Tensor, positions: Tensor, plan: Plan) -> Tensor:
        """The base's own forward over a flat row: (T, d), (T,) -> (T, d) after the final norm."""
        self.plan, self.slots = plan, plan.slots
        out = self.base_model(
            inputs_embeds=embeddings[None], position_ids=positions[None], use_cache=False
        )
        return out.last_hidden_state[0]

    def run_tiny(self) -> Tensor:
        """The base's own forward over two tokens -> (1, 2, d), for hooks to see what is called."""
        out = self.answer_tiny()
        return out.last_hidden_state if hasattr(out, "last_hidden_state") else out[0]

    def answer_tiny(self, plan: Plan | None = None, use_cache: bool = False) -> Any:
        """What the base's own forward answers to two tokens, in attention by a plan of them."""
        self.plan = plan or TriePlan(Trie.build([Sequence((0, 1))]))
        self.slots = self.plan.slots
        ids = torch.tensor([[0, 1]], device=self.device)
        return self.base_model(input_ids=ids, use_cache=use_cache)

    def entering(self, trie: Trie) -> Tensor:
        """What a whole pass over a trie begins with: embeddings (T, d), or ids (T,) where the base
        takes nothing else."""
        if self.findings.embeddings is None:
            return self.embed(trie.ids, Slots(trie.slots))
        return trie.ids

    def model_head(self, slot: int = -1) -> ModelHead:
        """The output layer as the model's own code applies it."""
        return ModelHead(self, slot)

    def own_head(self) -> Head:
        """The base's output layer."""
        module = self.model.get_output_embeddings()
        softcap = getattr(self.config, "final_logit_softcapping", None)
        scale = getattr(self.config, "logit_scale", None) or 1.0
        divisor = getattr(self.config, "logits_scaling", None) or 1.0
        return Head(module.weight, getattr(module, "bias", None), softcap, scale / divisor)


class OwnRows(Protocol):
    """Rows of an output layer for some tokens, see `rung/forward/token_rows.py`."""

    @property
    def output(self) -> Tensor:
        """(N, d)."""
        ...

    def index(self, device: torch.device) -> Tensor:
        """The tokens, (N,)."""
        ...

    def joined(self, raw: Tensor, hidden: Tensor) -> Tensor:
        """(n, V) logits of (n, d) states -> (n, W) with those of these tokens."""
        ...


class Head:
    """The output layer: weight (V, d), bias (V,) or None, and what the base does to its logits.

    Attributes:
        rows: of an adapter's own tokens, in place of the weight's and behind them; None for the base.
    """

    rows: OwnRows | None = None

    def __init__(self, weight: Tensor, bias: Tensor | None, softcap: float | None, scale: float):
        self.weight, self.bias, self.softcap, self.scale = weight, bias, softcap, scale

    @property
    def plain(self) -> bool:
        """Whether logits are the product with the weight and nothing else."""
        return self.bias is None and self.scale == 1.0 and not self.softcap and self.rows is None

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, d) -> (N, V), or (N, W) with the rows of added tokens."""
        out = nn.functional.linear(hidden, self.weight.to(hidden.dtype), self.bias)
        return self.shaped(out if self.rows is None else self.rows.joined(out, hidden))

    def shaped(self, out: Tensor) -> Tensor:
        """What the base makes of products with rows of its output layer, (N, any)."""
        if self.scale != 1.0:
            out = out * self.scale
        if self.softcap:
            out = torch.tanh(out / self.softcap) * self.softcap
        return out


class ModelHead:
    """The output layer of a base whose logits are more than one product: the model's own forward, with
    the states put in the place of what its layers gave. Each row goes through its slot's weights.

    Args:
        slot: whose weights apply where `logits` is not told.
    """

    plain = False

    def __init__(self, backbone: Backbone, slot: int = -1):
        self.backbone, self.slot = backbone, slot

    def logits(self, hidden: Tensor, slots: Slots | None = None) -> Tensor:
        """(N, d) -> (N, V)."""
        backbone, base = self.backbone, self.backbone.base_model
        ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        answer = copy(self._answer)
        answer["last_hidden_state"] = hidden[None]
        before = base.__dict__.get("forward")
        backbone.slots = slots or Slots(np.full(len(hidden), self.slot))
        base.forward = lambda *args, **kwargs: answer  # type: ignore[method-assign]
        try:
            return backbone.model(input_ids=ids, use_cache=False).logits[0]
        finally:
            del base.forward
            if before is not None:
                base.forward = before  # type: ignore[method-assign]

    @cached_property
    def _answer(self) -> Any:
        """What the layers answer, for its other fields."""
        plan, slots = self.backbone.plan, self.backbone.slots
        try:
            return self.backbone.answer_tiny()
        finally:
            self.backbone.plan, self.backbone.slots = plan, slots


def _without_head(model: Any) -> Any:
    """The model without its output layer: what transformers calls so, or the model within the model
    where that name leads nowhere."""
    from transformers import PreTrainedModel

    inner = model.base_model
    if inner is model:
        return next((m for m in model.children() if isinstance(m, PreTrainedModel)), model)
    return inner


def layer_names(model: Any, count: int) -> list[str]:
    """Names of the decoder layers, first to last; empty where there is no list of that length."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return [f"{name}.{i}" for i in range(count)]
    return []


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part of a parameter alone (a DTensor of torch's FSDP2)."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A parameter with all its values: gathered from all processes where it is sharded."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()
