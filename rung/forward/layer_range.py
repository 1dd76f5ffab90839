"""The base's own layers, as places to stop at and to start from.

What stands below the first layer that an adapter changes gives the same hidden states in every epoch
and every trial. So a pass may stop below a layer and hand out what would enter it, or start there with
what was kept. Either way the base's own forward runs, with the layers that are not wanted passed
through: its masks, rotary embeddings by layer type, scaling and norms stay its own business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rung.forward import last_layer, selfcheck
from rung.forward.attention import Plan, TriePlan
from rung.forward.backbone import Backbone
from rung.forward.trie import Trie


class LayerRange:
    """A base, layer by layer. Boundary `i` is what enters layer `i`; the last boundary, `count`, is
    what leaves the final norm, as in transformers' `output_hidden_states`.

    Attributes:
        names: of the layers in the model, first to last; empty where no list of them was found.
        starts: whether a pass can start at a layer; found by a self-check when first asked.
    """

    def __init__(self, backbone: Backbone):
        self.backbone = backbone
        self.names = backbone.layer_names
        self.layers: list[nn.Module] = [backbone.modules[name] for name in self.names]
        self._tuples: set[int] = set()  # layers that answer with a tuple instead of a tensor
        self._learnt = False

    @property
    def count(self) -> int:
        return len(self.layers)

    # --- one pass -------------------------------------------------------------------------------

    def run(
        self,
        entering: Tensor,
        positions: Tensor,
        plan: Plan,
        *,
        first: int | None = None,
        read: np.ndarray | None = None,
    ) -> Tensor:
        """A pass from a boundary to the end: (T, d), positions (T,) -> (T, d) after the final norm.

        Args:
            first: the boundary that `entering` is of; None: it is embeddings, as for a whole pass.
            read: ascending indices of the tokens whose states are wanted: -> (len(read), d).
        """
        if read is not None:
            return self.run_at(entering, positions, plan, read, first)[torch.from_numpy(read)]
        if first == self.count:
            self.backbone.plan, self.backbone.slots = plan, plan.slots
            return entering
        if first is None:
            return self.backbone.run_own(entering, positions, plan)
        return self._run_part(entering, positions, plan, first, None)

    def run_at(
        self,
        entering: Tensor,
        positions: Tensor,
        plan: Plan,
        read: np.ndarray,
        first: int | None = None,
    ) -> Tensor:
        """As `run` -> (T, d); the states of tokens that are not read may mean nothing."""
        if first == self.count or not self._pays(plan, read, len(entering)):
            return self.run(entering, positions, plan, first=first)
        return self._run_part(entering, positions, plan, first, read)

    def states(
        self, embeddings: Tensor, positions: Tensor, plan: Plan, wanted: Collection[int]
    ) -> dict[int, Tensor]:
        """Hidden states at boundaries: boundary -> (T, d). No layer above them is run.

        Raises:
            NotImplementedError: where the base has no list of layers.
        """
        found = self.capture(wanted, lambda: self.backbone.run_own(embeddings, positions, plan)[None])
        return {at: tensor[0] for at, tensor in found.items()}

    def _pays(self, plan: Plan, read: np.ndarray, tokens: int) -> bool:
        """Whether the last layer is better run at the tokens that are read alone."""
        if not isinstance(plan, TriePlan) or plan.in_front or plan.record is not None:
            return False
        return last_layer.worthwhile(read, tokens) and self.narrows

    # --- stopping -------------------------------------------------------------------------------

    def capture(self, wanted: Collection[int], run: Callable[[], Tensor]) -> dict[int, Tensor]:
        """What enters the layers of `wanted` while `run` computes a whole pass; none above is run.

        Raises:
            NotImplementedError: where the base has no list of layers.
        """
        if not self.layers:
            raise NotImplementedError("no list of decoder layers was found in this base")
        taken: dict[int, Tensor] = {}
        deepest = max(wanted)

        def replaced(at: int, own: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                x = _entering(args, kwargs)
                if at in wanted:
                    taken[at] = x
                if at >= deepest:
                    return (x,) if at in self._tuples else x
                out = own(*args, **kwargs)
                if isinstance(out, tuple):
                    self._tuples.add(at)
                return out

            return forward

        with self._replacing({at: replaced for at in range(self.count)}):
            last = run()
        if self.count in wanted:
            taken[self.count] = last
        return taken

    def learn_answers(self, run: Callable[[], Tensor]) -> None:
        """Learn by one small pass which layers answer with a tuple; they must when passed through."""
        if not self._learnt and self.layers:
            with torch.no_grad():
                self.capture({self.count}, run)
            self._learnt = True

    # --- starting -------------------------------------------------------------------------------

    def _run_part(
        self,
        entering: Tensor,
        positions: Tensor,
        plan: Plan,
        first: int | None,
        read: np.ndarray | None,
    ) -> Tensor:
        last = self.count - 1

        def passed(at: int, own: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                x = _entering(args, kwargs)
                return (x,) if at in self._tuples else x

            return forward

        def entered(at: int, own: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                x = entering[None] if at == first else _entering(args, kwargs)
                kwargs.pop("hidden_states", None)
                if at < last or read is None:
                    return own(x, *args[1:], **kwargs)
                return last_layer.run_at(self.backbone, read, own, x, args[1:], kwargs)

            return forward

        embeddings = entering
        if first is not None:
            # What the base embeds is thrown away at the first layer, so it takes no memory either.
            embeddings = entering.new_zeros(1, 1).expand(len(entering), self.backbone.width)
        changed = {at for at in (first, None if read is None else last) if at is not None}
        with self._replacing(
            {**dict.fromkeys(range(first or 0), passed), **dict.fromkeys(changed, entered)}
        ):
            return self.backbone.run_own(embeddings, positions, plan)

    @property
    def starts(self) -> bool:
        """Whether `run` from a boundary gives what a whole pass gives, on a small trie."""
        return self.why_not is None

    @cached_property
    def why_not(self) -> str | None:
        """The reason why a pass cannot start at a layer, else None."""
        if self.backbone.why_not is not None:
            return self.backbone.why_not
        if not self.layers:
            return "no list of decoder layers was found"
        half = self.count // 2
        fault = self._fault(half)
        return None if fault is None else f"a pass that starts at layer {half}: {fault}"

    @cached_property
    def narrows(self) -> bool:
        """Whether the last layer can be run for some tokens alone, found like `starts`."""
        if self.backbone.device.type != "cpu" or not self.starts:
            return False  # elsewhere its second pass would cost more than it saves
        return self._fault(self.count - 1, np.array([4, 10])) is None

    def _fault(self, first: int, read: np.ndarray | None = None) -> str | None:
        """Why a pass over the sample from a boundary is not the rest of a whole one, if so."""

        def compute() -> list[tuple[Tensor, Tensor]]:
            trie, found = self._sample
            with torch.no_grad():
                positions = trie.positions.to(self.backbone.device)
                ours = self._run_part(found[first], positions, TriePlan(trie), first, read)
            at = slice(None) if read is None else torch.from_numpy(read)
            return [(ours[at], found[self.count][at])]

        return selfcheck.fault(compute, self.backbone.dtype)

    @cached_property
    def _sample(self) -> tuple[Trie, dict[int, Tensor]]:
        """A small trie, and what enters its middle and last layer and leaves the norm."""
        trie = selfcheck.sample(self.backbone.vocabulary)
        with torch.no_grad():
            plan = TriePlan(trie)
            embeddings = self.backbone.embed(trie.ids, plan.slots)
            positions = trie.positions.to(self.backbone.device)
            wanted = {self.count // 2, self.count - 1, self.count}
            return trie, self.states(embeddings, positions, plan, wanted)

    # --- what a change reaches ------------------------------------------------------------------

    def boundary_of(self, module: str) -> int:
        """The boundary below which a change of a module changes nothing; 0 where it is at the bottom,
        or where that cannot be told."""
        for at, layer in enumerate(self.names):
            if module == layer or module.startswith(layer + "."):
                return at
        if not self.layers:
            return 0
        if self.backbone.modules.get(module) is self.backbone.model.get_output_embeddings():
            return self.count
        return self.count - 1 if module in self._after else 0

    @cached_property
    def _after(self) -> set[str]:
        """Modules outside the layers that are first called when the last layer has answered."""
        inside = {id(m) for layer in self.layers for m in layer.modules()}
        ours = {id(m) for m in self.backbone.base_model.modules()}
        outside = [
            (name, module)
            for name, module in self.backbone.modules.items()
            if id(module) in ours and id(module) not in inside
        ]
        calls: list[str] = []
        hooks = [
            module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
            for name, module in [*outside, ("", self.layers[-1])]
        ]
        try:
            with torch.no_grad():
                self.backbone.run_tiny()
        finally:
            for hook in hooks:
                hook.remove()
        last = calls.index("") if "" in calls else len(calls)
        return set(calls[last + 1 :]) - set(calls[:last])

    @contextmanager
    def _replacing(self, by: dict[int, Callable[[int, Callable], Callable]]) -> Iterator[None]:
        """Put other forwards in the place of layers' own, and take them out again."""
        before = {at: self.layers[at].__dict__.get("forward") for at in by}
        for at, make in by.items():
            layer: Any = self.layers[at]
            layer.forward = make(at, layer.forward)
        try:
            yield
        finally:
            for at, forward in before.items():
                layer = self.layers[at]
                del layer.forward
                if forward is not None:
                    layer.forward = forward


def _entering(args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states that a layer is called with."""
    return args[0] if args else kwargs["hidden_states"]
