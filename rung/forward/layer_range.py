"""The decoder layers of a base, as places to stop at and to start from.

What stands below the first layer that an adapter changes gives the same hidden states in every epoch
and every trial. So a pass may stop below a layer and hand out what would enter it, or start there with
what was kept. Either way the base's own forward runs, with the layers that are not wanted passed
through: its masks, rotary embeddings by layer type, scaling and norms stay its own business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rung.forward import last_layer, padded
from rung.forward.attention import Plan, TriePlan
from rung.forward.slots import Slots
from rung.forward.trie import Sequence as Row
from rung.forward.trie import Trie

if TYPE_CHECKING:
    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank

# How transformers tells that a base cannot be run in a way that was not meant for it.
FAULTS = (ValueError, NotImplementedError, TypeError, KeyError, AttributeError)


class LayerRange:
    """A bank's base, layer by layer. Boundary `i` is what enters layer `i`; the last boundary, `count`,
    is what leaves the final norm, as in transformers' `output_hidden_states`.

    Attributes:
        names: of the layers in the model, first to last; empty where no list of them was found.
        starts: whether a pass can start at a layer; found by a probe when first asked.
    """

    def __init__(self, bank: Bank):
        self.bank = bank
        self.names = layer_names(bank.model, bank.config.num_hidden_layers)
        modules = dict(bank.model.named_modules())
        self.layers: list[nn.Module] = [modules[name] for name in self.names]
        self._tuples: set[int] = set()  # layers that answer with a tuple instead of a tensor

    @property
    def count(self) -> int:
        return len(self.layers)

    # --- stopping -------------------------------------------------------------------------------

    def hidden(self, trie: Trie, wanted: Collection[int]) -> dict[int, Tensor]:
        """Hidden states of a trie at boundaries: boundary -> (T, d). No layer above them is run.

        Raises:
            NotImplementedError: where the base has no list of layers, or, for a base that does not
                carry tries, when rows belong to adapters.
        """
        if not self.layers:
            raise NotImplementedError("no list of decoder layers was found in this base")
        if self.bank.carries_trie:
            plan = TriePlan(trie, self.bank.front(trie))
            embeddings = self.bank.embed(trie.ids, plan.slots)
            positions = trie.positions.to(self.bank.device)
            found = self._capture(wanted, lambda: self.bank.run(embeddings, positions, plan)[None])
            return {at: tensor[0] for at, tensor in found.items()}
        return self._padded(trie, wanted)

    def _capture(self, wanted: Collection[int], run: Callable[[], Tensor]) -> dict[int, Tensor]:
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

    def _padded(self, trie: Trie, wanted: Collection[int]) -> dict[int, Tensor]:
        """The same through padded rows, for a base that does not carry tries."""
        if any(slot >= 0 for slot in Slots(trie.slots).present):
            raise NotImplementedError(f"{self.bank.why_not}: its adapters' rows have no shared states")
        self._find_tuples()
        lengths = [len(path) for path in trie.paths]
        rows = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
        mask = torch.zeros_like(rows)
        for i, path in enumerate(trie.paths):
            rows[i, : len(path)], mask[i, : len(path)] = torch.from_numpy(path), 1
        embeddings = self.bank.embed(trie.ids, Slots(trie.slots))[rows.to(self.bank.device)]
        positions, mask = trie.positions[rows].to(self.bank.device), mask.to(self.bank.device)
        found = self._capture(
            wanted, lambda: padded._call(self.bank, embeddings, positions, mask, slot=-1)
        )
        result = {}
        for at, tensor in found.items():
            flat = tensor.new_empty(len(trie), tensor.shape[-1])
            for i, path in enumerate(trie.paths):
                flat[path] = tensor[i, : len(path)]
            result[at] = flat
        return result

    def _find_tuples(self) -> None:
        """Learn, by one tiny pass, which layers answer with a tuple; they must when passed through."""
        if self._tuples or hasattr(self, "_looked"):
            return
        self._looked = True
        with torch.no_grad():
            ids = torch.zeros(1, 2, dtype=torch.long, device=self.bank.device)
            table = self.bank.model.get_input_embeddings()
            ones = torch.ones_like(ids)
            positions = torch.arange(2, device=self.bank.device)[None]
            self._capture(
                {self.count}, lambda: padded._call(self.bank, table(ids), positions, ones, slot=-1)
            )

    # --- starting -------------------------------------------------------------------------------

    def run_from(
        self,
        layer: int,
        hidden: Tensor,
        positions: Tensor,
        plan: Plan,
        read: np.ndarray | None = None,
    ) -> Tensor:
        """The rest of a pass: what enters `layer` (T, d), positions (T,) -> (T, d) after the norm.

        Args:
            read: ascending indices of the only tokens whose states will be read; those of others are
                then not computed where that can be spared (see `narrows`), and mean nothing.
        """
        if layer == self.count:
            self.bank.plan, self.bank.slots = plan, plan.slots
            return hidden
        if read is not None and not self._pays(read, len(hidden)):
            read = None
        return self._run_from(layer, hidden, positions, plan, read)

    def run_read(self, embeddings: Tensor, positions: Tensor, plan: Plan, read: np.ndarray) -> Tensor:
        """A whole pass whose states are read at some tokens alone; `read` as for `run_from`."""
        if not self._pays(read, len(embeddings)):
            return self.bank.run(embeddings, positions, plan)

        def narrowed(at: int, own: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                x = _entering(args, kwargs)
                kwargs.pop("hidden_states", None)
                return last_layer.run_at(self.bank, read, own, x, args[1:], kwargs)

            return forward

        with self._replacing({self.count - 1: narrowed}):
            return self.bank.run(embeddings, positions, plan)

    def _pays(self, read: np.ndarray, tokens: int) -> bool:
        """Whether the last layer is better run where it is read alone."""
        return last_layer.worthwhile(read, tokens) and self.narrows

    def _run_from(
        self, layer: int, hidden: Tensor, positions: Tensor, plan: Plan, read: np.ndarray | None
    ) -> Tensor:
        width = self.bank.model.get_input_embeddings().weight.shape[1]
        # What the base embeds is thrown away at the first layer, so it takes no memory either.
        nothing = hidden.new_zeros(1, 1).expand(len(hidden), width)
        last = self.count - 1

        def passed(at: int, own: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                x = _entering(args, kwargs)
                return (x,) if at in self._tuples else x

            return forward

        def entered(at: int, own: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                x = hidden[None] if at == layer else _entering(args, kwargs)
                kwargs.pop("hidden_states", None)
                if at < last or read is None:
                    return own(x, *args[1:], **kwargs)
                return last_layer.run_at(self.bank, read, own, x, args[1:], kwargs)

            return forward

        changed = {layer} if read is None else {layer, last}
        with self._replacing(
            {**dict.fromkeys(range(layer), passed), **dict.fromkeys(changed, entered)}
        ):
            return self.bank.run(nothing, positions, plan)

    @cached_property
    def starts(self) -> bool:
        """Whether `run_from` gives what a whole pass gives, on a small trie."""
        if not self.layers or not self.bank.carries_trie:
            return False
        return self.why_not is None

    @cached_property
    def why_not(self) -> str | None:
        """The reason why a pass cannot start at a layer, else None."""
        if not self.bank.carries_trie:
            return self.bank.why_not
        if not self.layers:
            return "no list of decoder layers was found"
        half = self.count // 2
        try:
            apart = self._apart(half)
        except FAULTS as fault:
            return " ".join(str(fault).split()) or type(fault).__name__
        if not apart < self._tolerance:
            return f"a pass that starts at layer {half} differs by {apart:.2g}"
        return None

    @cached_property
    def narrows(self) -> bool:
        """Whether the last layer can be run for some tokens alone, found by a probe like `starts`."""
        if self.bank.device.type != "cpu" or not self.starts:
            return False  # elsewhere its second pass would cost more than it saves
        try:
            return self._apart(self.count - 1, np.array([4, 10])) < self._tolerance
        except (*FAULTS, RuntimeError):
            return False

    @property
    def _tolerance(self) -> float:
        return padded.TOLERANCE.get(self.bank.dtype, padded.COARSE)

    def _apart(self, layer: int, read: np.ndarray | None = None) -> float:
        """How far a pass over the sample from a layer ends from a whole one."""
        trie, found = self._sample
        with torch.no_grad():
            positions = trie.positions.to(self.bank.device)
            again = self._run_from(layer, found[layer], positions, TriePlan(trie), read)
        at = slice(None) if read is None else torch.from_numpy(read).to(again.device)
        again, whole = again[at], found[self.count][at]
        return float((again - whole).abs().max() / whole.abs().max().clamp(min=1e-9))

    @cached_property
    def _sample(self) -> tuple[Trie, dict[int, Tensor]]:
        """A trie of 11 tokens, and what enters its middle and last layer and leaves the norm."""
        ids = torch.randint(
            0, self.bank.config.vocab_size, (11,), generator=torch.Generator().manual_seed(1)
        ).tolist()
        trie = Trie.build([Row(tuple(ids[:6])), Row(tuple(ids[:3] + ids[6:]))])
        with torch.no_grad():
            return trie, self.hidden(trie, {self.count // 2, self.count - 1, self.count})

    # --- adapters -------------------------------------------------------------------------------

    def frozen_below(self, adapter: Adapter) -> int:
        """The boundary below which an adapter changes nothing; 0 where it changes something at the
        bottom, or where that cannot be told."""
        if not self.layers or adapter.embeddings is not None or adapter.keys_values is not None:
            return 0
        touched = [*adapter.linear, *(n.rpartition(".")[0] for n in self._spelled(adapter))]
        return min((self._boundary(name) for name in touched), default=0)

    def _spelled(self, adapter: Adapter) -> Iterator[str]:
        """Every name of every parameter that the adapter replaces; tied weights have several."""
        own = dict(self.bank.model.named_parameters())
        for name in adapter.weights:
            yield name
            if name in own:
                yield from self.bank._names(own[name])

    def _boundary(self, module: str) -> int:
        for at, layer in enumerate(self.names):
            if module == layer or module.startswith(layer + "."):
                return at
        head = self.bank.model.get_output_embeddings()
        if self.bank._modules.get(module) is head:
            return self.count
        return self.count - 1 if module in self._after else 0

    @cached_property
    def _after(self) -> set[str]:
        """Modules outside the layers that are first called when the last layer has answered."""
        outside = [
            (name, module)
            for name, module in self.bank.backbone.named_modules(
                prefix=_prefix(self.bank.model, self.bank.backbone)
            )
            if not any(name == n or name.startswith(n + ".") for n in self.names)
        ]
        calls: list[str] = []
        hooks = [
            module.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
            for name, module in [*outside, ("", self.layers[-1])]
        ]
        try:
            with torch.no_grad():
                trie = Trie.build([Row((0, 1))])
                self.bank.forward(trie)
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


def layer_names(model: Any, count: int) -> list[str]:
    """Names of the decoder layers, first to last; empty where there is no list of that length."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return [f"{name}.{i}" for i in range(count)]
    return []


def _prefix(model: nn.Module, inner: nn.Module) -> str:
    return next((name for name, module in model.named_modules() if module is inner), "")


def _entering(args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states that a layer is called with."""
    return args[0] if args else kwargs["hidden_states"]
