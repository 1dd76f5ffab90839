"""What a rung costs: once in training, and again with every request, in the same unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """Of one rung, measured or predicted.

    Attributes:
        seconds: to find or train the adapter, with hidden states that were found on disk counted as if
            they had been computed: whoever makes it elsewhere has to.
        wall: the time of making, choosing and measuring it here.
        request_seconds: of one request, alone, as served, the median; request_low, request_high: the
            middle half of what was timed. request_tokens: read and written by it.
        bytes: peak memory while it was made. disk: bytes of its artefact.
        joules: while it was made, where a counter exists.
    """

    seconds: float = 0.0
    wall: float = 0.0
    request_seconds: float = 0.0
    request_tokens: float = 0.0
    request_low: float = 0.0
    request_high: float = 0.0
    bytes: int = 0
    disk: int = 0
    joules: float | None = None

    def serving(self, requests: int) -> float:
        """Seconds of all expected requests."""
        return self.request_seconds * requests

    def total(self, requests: int) -> float:
        """Seconds of making it and of all expected requests."""
        return self.seconds + self.serving(requests)

    def money(self, requests: int, price: float) -> float:
        """The total at a price per hour."""
        return self.total(requests) / 3600 * price

    def as_dict(self, requests: int, price: float | None = None) -> dict[str, Any]:
        """Plain data, with the sums that tables show."""
        kept = asdict(self)
        kept["serving_seconds"] = self.serving(requests)
        kept["total_seconds"] = self.total(requests)
        if price is not None:
            kept["money"] = self.money(requests, price)
        return kept

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Cost:
        """From what `as_dict` gave."""
        return cls(**{name: kept[name] for name in cls.__dataclass_fields__ if name in kept})
