"""Served models by name, and the residency of their adapters: on disk, in memory, or in the bank."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from rung.data.check import without_rows
from rung.engine.constraint import Grammars
from rung.engine.request import GenerationRequest, Request
from rung.engine.served_model import ServedModel
from rung.errors import ArtefactError, ConfigError, ModelNotFound, nearest
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank

Source = Callable[[], Adapter]
MAX_STRENGTHS = 16  # slots of steered models at strengths of their requests; the oldest goes first


@dataclass
class Known:
    """Adapter that the engine was given, wherever it is now.

    Attributes:
        adapter: None while only `source` has it.
        positions: those it takes in front of every prompt, once it was read.
        used: when it was asked for last, by a clock of its own.
    """

    adapter: Adapter | None
    source: Source | None
    positions: int = 0
    used: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> Adapter:
        """Return the adapter, read from its source where it is not in memory."""
        if self.adapter is None:
            assert self.source is not None
            adapter = self.source()
            check_finite(adapter)
            self.adapter, self.positions = adapter, adapter.positions
        return self.adapter


class Registry:
    """Models by name, and the slots behind them.

    A slot never comes back with other weights: a model that is replaced gets a new one, and the old
    one stays in the bank until nobody is being answered by it.

    Args:
        context: maximum number of tokens of prompt and answer together.
        max_resident: maximum number of adapters in the bank, those in use aside; None: no limit. What
            is moved out is read again from its source when somebody asks; without a source it stays
            in host memory.

    Attributes:
        lock: held while requests are queued, and while a name changes hands.
        on_forget: called with a slot that is freed.
    """

    def __init__(
        self,
        bank: Bank,
        models: dict[str, ServedModel],
        context: int,
        max_resident: int | None = None,
    ):
        self.bank, self.models, self.context = bank, dict(models), context
        self.max_resident = max_resident
        self.vocabulary = bank.vocabulary
        self.lock = threading.RLock()
        self.on_forget: Callable[[int], None] = lambda slot: None
        self._retired: set[int] = set()
        self._known: dict[int, Known] = {}
        # (slot, strength, layers) -> slot of its own
        self._steered: dict[tuple[int, float | None, tuple[int, ...]], int] = {}
        self._clock = itertools.count(1)
        self._grammars: dict[tuple, Grammars] = {}

    @property
    def shown(self) -> list[str]:
        """Names that clients are told. A base may also be asked by the path that it was named by, but
        where it lies on this machine is said to nobody."""
        return [name for name in self.models if not name.startswith(("/", "./", "../", "~"))]

    def model(self, name: str) -> ServedModel:
        """Return the model of that name. Raises ModelNotFound naming the nearest."""
        model = self.models.get(name)
        if model is None:
            raise ModelNotFound(f"no model '{name}' is served{nearest(name, self.shown)}")
        return model

    def asked(self, request: Request) -> ServedModel:
        """Return the model that a request is for, as `steered` says. Call it with `lock` held."""
        if not isinstance(request, GenerationRequest):
            return self.model(request.model)
        return self.steered(request.model, request.decoding.strength, request.decoding.layers)

    def steered(self, name: str, strength: float | None, layers: Sequence[int] = ()) -> ServedModel:
        """Return the model with its vectors at another strength or in some of its layers, in a slot of
        its own, so that it never shares a prefix with others. Call it with `lock` held.

        Args:
            strength: None is the model's own. layers: empty for all of its own.

        Raises:
            ConfigError: where the model has no strength, or does not steer a layer that is named.
            ModelNotFound: as `model`.
        """
        model = self.model(name)
        if strength is None and not layers:
            return model
        key = model.slot, strength, tuple(sorted(set(layers)))
        if key not in self._steered:
            adapter = self._at(model, strength, key[2])
            while len(self._steered) >= MAX_STRENGTHS:
                self._retired.add(self._steered.pop(next(iter(self._steered))))
            self._steered[key] = slot = self.bank.reserve()
            self._known[slot] = Known(adapter, None, adapter.positions, next(self._clock))
        return dataclasses.replace(model, slot=self._steered[key])

    def _at(self, model: ServedModel, strength: float | None, layers: Sequence[int]) -> Adapter:
        """A model's adapter at a strength and in some layers. Raises ConfigError as `steered`."""
        own = self._adapter(model.slot)
        adapter = None if own is None else own.at_strength(strength)
        if adapter is None:
            said = "layers" if strength is None else "strength"
            raise ConfigError(
                f"'{said}' is for steered models, and '{model.name}' is none: leave it out"
            )
        if not layers:
            return adapter
        by_layer = {self.bank.layers.boundary_of(name): name for name in adapter.linear}
        foreign = [n for n in layers if n not in by_layer]
        if foreign:
            steered = ", ".join(map(str, sorted(by_layer)))
            raise ConfigError(f"'layers' names {foreign[0]}, and '{model.name}' steers {steered}")
        kept = {by_layer[n]: adapter.linear[by_layer[n]] for n in layers}
        return dataclasses.replace(adapter, linear=kept)

    def strength(self, name: str) -> float | None:
        """The own strength of a model; None where it is not steered. Reads its adapter where it is on
        disk. Raises ModelNotFound."""
        adapter = self._adapter(self.model(name).slot)
        return None if adapter is None else adapter.strength

    def _adapter(self, slot: int) -> Adapter | None:
        known = self._known.get(slot)
        return known.read() if known is not None else self.bank.adapters.get(slot)

    def vocabulary_of(self, slot: int) -> int:
        """Count the token ids that a slot's model reads: the base's, and those its adapter adds."""
        adapter = self._adapter(slot)
        added = None if adapter is None else adapter.tokens
        return self.vocabulary if added is None else max(self.vocabulary, added.end)

    def check_ids(self, ids: Sequence[int], what: str, model: ServedModel) -> None:
        """Refuse a text that is empty or not of a model's vocabulary; raises ConfigError."""
        if not ids:
            raise ConfigError(f"{what} is empty")
        vocabulary = self.vocabulary_of(model.slot)
        if not 0 <= min(ids) <= max(ids) < vocabulary:
            # A tokenizer of another base writes such ids into every prompt, which no user can help.
            why = without_rows(model.template.tokenizer, ids, vocabulary)
            told = f"{what} holds a token id outside 0 to {vocabulary - 1}"
            raise ConfigError(f"{told}: {why}" if why else told)

    # --- residency --------------------------------------------------------------------------------

    def hold(self, slot: int) -> int:
        """Read a slot's adapter into memory, from any thread -> positions it takes before a prompt.

        Raises:
            RungError: when its source cannot read it.
        """
        known = self._known.get(slot)
        if known is None:
            return self.bank.positions(slot)
        with known.lock:
            known.read()
            return known.positions

    def begins(self, slot: int, prompt: Sequence[int]) -> int | None:
        """The token of a prompt at which a slot's adapter begins to act, see `Adapter.begins`."""
        adapter = self._adapter(slot)
        return None if adapter is None else adapter.begins(prompt)

    def make_resident(self, slot: int, in_use: Collection[int]) -> None:
        """Put a slot's adapter into the bank, between two steps, and move idle ones out.

        Args:
            in_use: slots of requests that are being answered, which stay.

        Raises:
            ArtefactError: when it does not fit the base.
        """
        known = self._known.get(slot)
        if known is None:
            return
        known.used = next(self._clock)
        if slot not in self.bank.adapters:
            with known.lock:
                self.bank.put(slot, known.read().to(self.bank.device))
            self._move_out({*in_use, slot})

    def _move_out(self, in_use: Collection[int]) -> None:
        resident = [s for s in self.bank.adapters if s in self._known]
        limit = len(resident) if self.max_resident is None else self.max_resident
        idle = sorted((s for s in resident if s not in in_use), key=lambda s: self._known[s].used)
        for slot in idle[: max(0, len(resident) - limit)]:
            self.bank.remove(slot)
            known = self._known[slot]
            if known.source is not None:
                known.adapter = None
            elif known.adapter is not None:
                known.adapter.to("cpu")

    # --- changes, between two steps ---------------------------------------------------------------

    def load(self, model: ServedModel, adapter: Adapter | None, source: Source | None) -> ServedModel:
        """Give a name to a model; see `Engine.load`."""
        if adapter is not None:
            check_finite(adapter)
            model = dataclasses.replace(model, slot=self.bank.add(adapter))
            self._known[model.slot] = Known(adapter, source, adapter.positions, next(self._clock))
        elif source is not None:
            model = dataclasses.replace(model, slot=self.bank.reserve())
            self._known[model.slot] = Known(None, source)
        with self.lock:
            old = self.models.get(model.name)
            self.models[model.name] = model
            self._retire(old)
        return model

    def unload(self, name: str) -> None:
        """Take a name away; raises ModelNotFound."""
        with self.lock:
            old = self.model(name)
            del self.models[name]
            self._retire(old)

    def _retire(self, old: ServedModel | None) -> None:
        if old is not None and old.slot >= 0 and all(m.slot != old.slot for m in self.models.values()):
            steered = [key for key in self._steered if key[0] == old.slot]
            self._retired |= {old.slot, *(self._steered.pop(key) for key in steered)}

    def free_retired(self, in_use: Callable[[], Collection[int]]) -> None:
        """Free the slots that no name and no request needs any more."""
        if not self._retired:
            return
        with self.lock:
            free = self._retired - set(in_use())
            self._retired -= free
        for slot in free:
            self._known.pop(slot, None)
            self.bank.remove(slot)
            self.on_forget(slot)

    # --- grammars ---------------------------------------------------------------------------------

    def grammars(self, name: str) -> Grammars:
        """Return the grammars of a model's tokenizer; models with equal ones share them."""
        model = self.model(name)
        key = (model.template.tokenizer_digest, model.stop_ids)
        with self.lock:
            known = self._grammars.get(key)
        if known is None:
            vocabulary = self.bank.model.get_output_embeddings().weight.shape[0]
            known = Grammars(model.template.tokenizer, model.stop_ids, vocabulary)
            with self.lock:
                known = self._grammars.setdefault(key, known)
        return known


def check_finite(adapter: Adapter) -> None:
    """Refuse weights that are not finite; raises ArtefactError naming the first."""
    for name, tensor in adapter.parameters().items():
        if not bool(tensor.isfinite().all()):
            raise ArtefactError(f"the adapter's {name} holds values that are not finite")
