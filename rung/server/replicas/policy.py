"""Routing: which replica answers a request, by warm adapter and shared beginning, bounded by load.

A replica that has answered a text of a model holds keys and values of its beginning. A request goes to
the replica that has seen most of its beginning, as long as that one has no more than its bounded share
of what is in flight (consistent hashing with bounded loads, Mirrokni et al. 2018, has the same bound);
else to the next best. Text that nobody has seen goes to a replica that knows the adapter, then to the
one with least to do. Nothing is known of what a replica has dropped: what was sent there longest ago is
forgotten first.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

BLOCK = 64  # units of a text (characters, or tokens) that are compared at once
MAX_BLOCKS = 1 << 16  # remembered of each replica
BOUND = 1.25  # times an even share of what is in flight, that a replica may have and still be chosen


@dataclass(kw_only=True)
class Replica:
    """What is known of one replica: whether it answers, what is in flight on it, what it has seen, and
    models that others serve and it does not."""

    alive: bool = True
    in_flight: int = 0
    seen: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    models: set[str] = field(default_factory=set)
    lacking: set[str] = field(default_factory=set)


class Policy(Protocol):
    """Chooses a replica for each request, and is told when it has been answered."""

    replicas: list[Replica]

    def choose(self, model: str, text: Sequence, without: frozenset[int] = frozenset()) -> int | None:
        """The place of a replica that is alive and not among `without`; None where there is none."""

    def done(self, place: int) -> None:
        """A request that was sent there is answered, or given up."""

    def lost(self, place: int) -> None:
        """A replica is gone, with everything that it had seen."""

    def lacks(self, place: int, model: str) -> None:
        """A replica does not serve a model that another one does, as long as it runs."""


class Balanced:
    """The replica with the least in flight; the first of alike ones."""

    def __init__(self, count: int):
        self.replicas = [Replica() for _ in range(count)]

    def choose(self, model: str, text: Sequence, without: frozenset[int] = frozenset()) -> int | None:
        places = [p for p, r in enumerate(self.replicas) if r.alive and p not in without]
        places = [p for p in places if model not in self.replicas[p].lacking] or places
        if not places:
            return None
        chosen = self._best(places, model, text)
        self.replicas[chosen].in_flight += 1
        return chosen

    def done(self, place: int) -> None:
        self.replicas[place].in_flight = max(0, self.replicas[place].in_flight - 1)

    def lost(self, place: int) -> None:
        self.replicas[place] = Replica(alive=False)

    def lacks(self, place: int, model: str) -> None:
        self.replicas[place].lacking.add(model)
        self.replicas[place].models.discard(model)

    def back(self, place: int) -> None:
        """A replica answers, for the first time or again."""
        self.replicas[place] = Replica()

    def _best(self, places: Sequence[int], model: str, text: Sequence) -> int:
        return min(places, key=lambda p: self.replicas[p].in_flight)


class Random(Balanced):
    """Any replica."""

    def __init__(self, count: int, seed: int = 0):
        super().__init__(count)
        self._draw = random.Random(seed)

    def _best(self, places: Sequence[int], model: str, text: Sequence) -> int:
        return self._draw.choice(places)


class Warm(Balanced):
    """The replica that has seen most of a request's beginning, within its bounded share.

    Args:
        block: units of a text that are compared at once.
    """

    def __init__(self, count: int, block: int = BLOCK):
        super().__init__(count)
        self.block = block

    def _best(self, places: Sequence[int], model: str, text: Sequence) -> int:
        keys = blocks(model, text, self.block)
        total = 1 + sum(self.replicas[p].in_flight for p in places)
        bound = math.ceil(BOUND * total / len(places))
        free = [p for p in places if self.replicas[p].in_flight < bound]

        def worth(place: int) -> tuple:
            replica = self.replicas[place]
            known = next((i for i, key in enumerate(keys) if key not in replica.seen), len(keys))
            # Of alike replicas the one with fewer adapters takes another, so that adapters spread.
            return (known, model in replica.models, -replica.in_flight, -len(replica.models))

        chosen = max(free, key=worth)
        self._remember(self.replicas[chosen], model, keys)
        return chosen

    def _remember(self, replica: Replica, model: str, keys: Sequence[bytes]) -> None:
        replica.models.add(model)
        for key in reversed(keys):  # the beginning is the last to be forgotten
            replica.seen[key] = None
            replica.seen.move_to_end(key)
        while len(replica.seen) > MAX_BLOCKS:
            replica.seen.popitem(last=False)


def blocks(model: str, text: Sequence, size: int = BLOCK) -> list[bytes]:
    """A key for each whole block of a text, which stands for everything before it too."""
    found, before = [], model.encode()
    for start in range(0, len(text) - size + 1, size):
        part = text[start : start + size]
        said = part.encode() if isinstance(part, str) else repr(tuple(part)).encode()
        before = hashlib.blake2b(before + b"\0" + said, digest_size=16).digest()
        found.append(before)
    return found
