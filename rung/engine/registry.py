"""Who can be asked. Models come and go while others are answered."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any

from rung.engine.constraint import Grammars
from rung.engine.residency import Residency, Source, check
from rung.engine.served_model import ServedModel
from rung.errors import ModelNotFound, nearest
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank


class Registry:
    """Models by name, and the slots behind them.

    A slot never comes back with other weights: a model that is replaced gets a new one, and the old
    one stays in the bank until nobody is being answered by it.

    Attributes:
        lock: held while requests are queued, and while a name changes hands.
    """

    def __init__(self, bank: Bank, models: dict[str, ServedModel], max_resident: int | None = None):
        self.bank, self.models = bank, dict(models)
        self.residency = Residency(bank, max_resident)
        self.lock = threading.RLock()
        self.on_forget: Callable[[int], None] = lambda slot: None
        self._retired: set[int] = set()
        self._used: Counter[int] = Counter()  # slots used by something else than generation
        self._grammars: dict[tuple, Grammars] = {}

    def model(self, name: str) -> ServedModel:
        """The model of that name. Raises ModelNotFound naming the nearest."""
        model = self.models.get(name)
        if model is None:
            raise ModelNotFound(f"no model '{name}' is served{nearest(name, list(self.models))}")
        return model

    def hold(self, name: str) -> int:
        """Have a model's adapter in memory -> entries it puts in front of a prompt."""
        return self.residency.hold(self.model(name).slot)

    def front(self, slot: int) -> int:
        """Entries that a slot's adapter puts in front of a prompt."""
        return self.residency.hold(slot)

    def settle(self, slot: int, in_use: Collection[int]) -> None:
        """Have a slot's adapter in the bank; between two steps."""
        self.residency.settle(slot, {*in_use, *self._used})

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[ServedModel]:
        """A model that stays in the bank until the end of the block."""
        with self.lock:
            model = self.model(name)
            self._used[model.slot] += 1
        try:
            yield model
        finally:
            with self.lock:
                self._used[model.slot] -= 1
                self._used += Counter()  # drops those at zero

    # --- changes, between two steps ---------------------------------------------------------------

    def load(self, model: ServedModel, adapter: Adapter | None, source: Source | None) -> ServedModel:
        """Give a name to a model; see `Engine.load`."""
        if adapter is not None:
            check(adapter)
            model = dataclasses.replace(model, slot=self.bank.add(adapter))
            self.residency.add(model.slot, adapter, source)
            self.residency.settle(model.slot, self._used)
        elif source is not None:
            model = dataclasses.replace(model, slot=self.bank.reserve())
            self.residency.add(model.slot, None, source)
        with self.lock:
            old = self.models.get(model.name)
            self.models[model.name] = model
            self._let_go(old)
        return model

    def unload(self, name: str) -> None:
        """Take a name away; raises ModelNotFound."""
        with self.lock:
            old = self.model(name)
            del self.models[name]
            self._let_go(old)

    def _let_go(self, old: ServedModel | None) -> None:
        if old is not None and old.slot >= 0 and all(m.slot != old.slot for m in self.models.values()):
            self._retired.add(old.slot)

    def retire(self, in_use: Callable[[], Collection[int]]) -> None:
        """Free the slots that no name and no request needs any more."""
        if not self._retired:
            return
        with self.lock:
            free = self._retired - set(in_use()) - set(self._used)
            self._retired -= free
        for slot in free:
            self.residency.forget(slot)
            self.on_forget(slot)

    # --- grammars -------------------------------------------------------------------------------

    def grammars(self, name: str) -> Grammars:
        """The grammars of a model's tokenizer; models with equal ones share them."""
        model = self.model(name)
        tokenizer: Any = model.template.tokenizer
        key = (_digest(tokenizer), model.stop_ids)
        with self.lock:
            known = self._grammars.get(key)
        if known is None:
            vocabulary = self.bank.model.get_output_embeddings().weight.shape[0]
            known = Grammars(tokenizer, model.stop_ids, vocabulary)
            with self.lock:
                known = self._grammars.setdefault(key, known)
        return known


def _digest(tokenizer: Any) -> str:
    """The same for equal tokenizers; computed once for each object."""
    import hashlib

    known = getattr(tokenizer, "_rung_digest", None)
    if known is None:
        known = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
        tokenizer._rung_digest = known
    return known
