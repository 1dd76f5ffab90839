"""Which adapters are in the bank: those in use, and of the others the ones used last."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from rung.errors import ArtefactError
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank

Source = Callable[[], Adapter]


@dataclass
class Entry:
    """An adapter that can be asked for.

    Attributes:
        adapter: None while it is only where `source` reads it.
        front: entries it puts in front of every prompt.
        used: when it was asked for last, by a clock of its own.
    """

    adapter: Adapter | None
    source: Source | None
    front: int = 0
    used: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Residency:
    """The adapters that the engine was given, and their way into the bank and out of it.

    Args:
        most: adapters in the bank at most, those in use aside; None: no limit. What is moved out is
            read again from its source when somebody asks; without a source it stays in host memory.
    """

    def __init__(self, bank: Bank, most: int | None = None):
        self.bank, self.most = bank, most
        self._entries: dict[int, Entry] = {}
        self._clock = itertools.count(1)

    def add(self, slot: int, adapter: Adapter | None, source: Source | None) -> None:
        """Know an adapter; it enters the bank when somebody asks for it."""
        front = 0 if adapter is None else front_of(adapter)
        self._entries[slot] = Entry(adapter, source, front)

    def forget(self, slot: int) -> None:
        """Drop an adapter for good."""
        self._entries.pop(slot, None)
        self.bank.remove(slot)

    def hold(self, slot: int) -> int:
        """Have an adapter in memory, from any thread -> entries it puts in front of a prompt.

        Raises:
            RungError: when its source cannot read it.
        """
        entry = self._entries.get(slot)
        if entry is None:
            adapter = self.bank.adapters.get(slot)
            return 0 if adapter is None else front_of(adapter)
        with entry.lock:
            self._read(entry)
            return entry.front

    def settle(self, slot: int, in_use: Collection[int]) -> None:
        """Have an adapter in the bank, and others out of it; between two steps.

        Raises:
            ArtefactError: when it does not fit the base.
        """
        entry = self._entries.get(slot)
        if entry is None:
            return
        entry.used = next(self._clock)
        if slot not in self.bank.adapters:
            with entry.lock:
                self.bank.put(slot, self._read(entry).to(self.bank.device))
            self._move_out({*in_use, slot})

    def _read(self, entry: Entry) -> Adapter:
        if entry.adapter is None:
            assert entry.source is not None
            adapter = entry.source()
            check(adapter)
            entry.adapter, entry.front = adapter, front_of(adapter)
        return entry.adapter

    def _move_out(self, in_use: Collection[int]) -> None:
        resident = [s for s in self.bank.adapters if s in self._entries]
        spare = len(resident) - (len(resident) if self.most is None else self.most)
        idle = sorted((s for s in resident if s not in in_use), key=lambda s: self._entries[s].used)
        for slot in idle[: max(0, spare)]:
            self.bank.remove(slot)
            entry = self._entries[slot]
            if entry.source is not None:
                entry.adapter = None
            elif entry.adapter is not None:
                entry.adapter.to("cpu")


def front_of(adapter: Adapter) -> int:
    """Entries that an adapter puts in front of every prompt."""
    virtual = 0 if adapter.embeddings is None else len(adapter.embeddings)
    return virtual + (0 if adapter.keys_values is None else adapter.keys_values.shape[2])


def check(adapter: Adapter) -> None:
    """Refuse weights that are not finite; raises ArtefactError naming the first."""
    for name, tensor in adapter.parameters().items():
        if not bool(tensor.isfinite().all()):
            raise ArtefactError(f"the adapter's {name} holds values that are not finite")
