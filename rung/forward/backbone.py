"""A frozen base model: its facts, and one pass of its own layers over a flat row of tokens.

What needs the base and not the adapters takes a `Backbone`; `Bank` is one with adapters on top.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rung.errors import ConfigError
from rung.forward import attention
from rung.forward.attention import Plan, TriePlan
from rung.forward.slots import Slots
from rung.forward.trie import Sequence, Trie

DEFAULT_CONTEXT = 2048  # tokens, for a base whose config names no longest sequence (ALiBi, say)

Record = Callable[[int, Tensor, Tensor], None]


class Backbone(ABC):
    """A Hugging Face causal language model whose attention goes by the `plan` of the pass that runs.

    Args:
        model: its parameters are frozen.
        digest: of the base, by which what is computed of it is kept; "" keeps nothing on disk.

    Attributes:
        base_model: the model without its output layer, as transformers calls it.
        config: of the text model.
        modules: by name.
        layer_names: of the decoder layers, first to last; empty where no list of them was found.
        plan, slots: of the pass that runs, and afterwards of the last one, so that recomputation in
            a backward pass finds them.
        why_not: the reason why the base's attention cannot run on a trie; None where it can.

    Raises:
        ConfigError: when another backbone holds the model; `close` that one first.
    """

    def __init__(self, model: Any, digest: str = ""):
        self.digest = digest
        self.model = model.eval().requires_grad_(False)
        self.config = model.config.get_text_config()
        self.base_model: nn.Module = model.base_model
        self.modules: dict[str, nn.Module] = dict(model.named_modules())
        self.layer_names = _layer_names(model, self.config.num_hidden_layers)
        self.plan: Plan | None = None
        self.slots: Slots | None = None
        self.why_not: str | None = None
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

    def run_own(self, embeddings: Tensor, positions: Tensor, plan: Plan) -> Tensor:
        """The base's own forward over a flat row: (T, d), (T,) -> (T, d) after the final norm."""
        self.plan, self.slots = plan, plan.slots
        out = self.base_model(
            inputs_embeds=embeddings[None], position_ids=positions[None], use_cache=False
        )
        return out.last_hidden_state[0]

    def run_tiny(self) -> Tensor:
        """The base's own forward over two tokens -> (1, 2, d), for hooks to see what is called."""
        self.plan = plan = TriePlan(Trie.build([Sequence((0, 1))]))
        self.slots = plan.slots
        ids = torch.tensor([[0, 1]], device=self.device)
        return self.base_model(input_ids=ids, use_cache=False).last_hidden_state

    def own_head(self) -> Head:
        """The base's output layer."""
        module = self.model.get_output_embeddings()
        softcap = getattr(self.config, "final_logit_softcapping", None)
        scale = getattr(self.config, "logit_scale", None) or 1.0
        divisor = getattr(self.config, "logits_scaling", None) or 1.0
        return Head(module.weight, getattr(module, "bias", None), softcap, scale / divisor)


class Head:
    """The output layer: weight (V, d), bias (V,) or None, and what the base does to its logits."""

    def __init__(self, weight: Tensor, bias: Tensor | None, softcap: float | None, scale: float):
        self.weight, self.bias, self.softcap, self.scale = weight, bias, softcap, scale

    @property
    def plain(self) -> bool:
        """Whether logits are the product with the weight and nothing else."""
        return self.bias is None and self.scale == 1.0 and not self.softcap

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, d) -> (N, V)."""
        out = nn.functional.linear(hidden, self.weight.to(hidden.dtype), self.bias)
        if self.scale != 1.0:
            out = out * self.scale
        if self.softcap:
            out = torch.tanh(out / self.softcap) * self.softcap
        return out


def _layer_names(model: Any, count: int) -> list[str]:
    """Names of the decoder layers, first to last; empty where there is no list of that length."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return [f"{name}.{i}" for i in range(count)]
    return []
