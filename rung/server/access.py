"""Who may ask, and how much: keys, scopes, rates and quotas."""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.errors import StoreError
from rung.server.errors import ApiError
from rung.store.keys import Keys, digest_of
from rung.store.serving import KeyRecord

FRESH = 2.0  # seconds after which the store is asked again for its keys
MINUTE = 60.0
WRONG = "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'"


@dataclass
class Account:
    """What one request uses, and on whose behalf.

    Attributes:
        key: None for a key of the command line, or where no keys are set.
        asked, drawn: tokens of prompts and answers. model: who answered.
    """

    key: KeyRecord | None = None
    model: str = ""
    asked: int = 0
    drawn: int = 0

    def spend(self, asked: int, drawn: int) -> None:
        self.asked, self.drawn = asked, drawn

    def needs(self, scope: str) -> None:
        """Raises ApiError (403) where the key does not open that."""
        if self.key is not None and not self.key.may(scope):
            raise ApiError(
                f"the key '{self.key.name}' has no scope '{scope}'", status=403, code="missing_scope"
            )


@dataclass
class Bucket:
    """So many units a minute, refilled evenly; may go into debt by what was not known beforehand."""

    size: float
    left: float = field(init=False)
    at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.left = self.size

    def wait(self) -> float:
        """Seconds until a unit is there; 0 when there is one."""
        moment = time.monotonic()
        self.left = min(self.size, self.left + (moment - self.at) * self.size / MINUTE)
        self.at = moment
        return 0.0 if self.left >= 1 else (1 - self.left) * MINUTE / self.size


class Access:
    """Tells keys apart, and counts what they use.

    Args:
        fixed: keys of the command line, which open everything.
        keys: gives the store's keys.
    """

    def __init__(self, fixed: Sequence[str], keys: Callable[[], Keys]):
        self._fixed = [digest_of(key) for key in fixed]
        self._keys = keys
        self._known: list[KeyRecord] = []
        self._read_at = float("-inf")
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._used: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def stale(self) -> bool:
        """Whether the store should be asked again."""
        return time.monotonic() - self._read_at > FRESH

    @property
    def owes(self) -> bool:
        """Whether the store has yet to be told what was used."""
        return bool(self._used) and self.stale

    def refresh(self) -> None:
        """Hand over what was used, and read the keys again; keeps the old ones where that fails."""
        self._read_at = time.monotonic()
        with self._lock:
            used, self._used = self._used, {}
        try:
            keys = self._keys()
            if used:
                keys.spend(used)
            self._known = keys.list()
        except StoreError:
            with self._lock:
                for id, tokens in used.items():
                    self._used[id] = self._used.get(id, 0) + tokens

    @property
    def locked(self) -> bool:
        """Whether a key is needed at all."""
        return bool(self._fixed or self._known)

    def account(self, authorization: str) -> Account:
        """Whose request it is.

        Raises:
            ApiError: 401 for an unknown key, 429 for one that has used up its rate or quota.
        """
        key = self.find(authorization)
        if key is None:
            return Account()
        self._admit(key)
        return Account(key)

    def find(self, authorization: str) -> KeyRecord | None:
        """The key that is sent; None for one of the command line, or where none is needed.

        Raises:
            ApiError: 401 for an unknown key.
        """
        if not self.locked:
            return None
        kind, _, given = authorization.partition(" ")
        digest = digest_of(given.strip().encode("latin-1"))  # the bytes that were sent
        # Every key is compared in full, so that the time says nothing about any of them.
        fixed = [hmac.compare_digest(digest, known) for known in self._fixed]
        found = [key for key in self._known if hmac.compare_digest(digest, key.digest)]
        if kind.lower() != "bearer" or not (any(fixed) or found):
            raise ApiError(WRONG, status=401)
        return None if any(fixed) else found[0]

    def _admit(self, key: KeyRecord) -> None:
        with self._lock:
            used = key.used + self._used.get(key.id, 0)
            if key.quota is not None and used >= key.quota:
                told = f"the key '{key.name}' has used {used} of its {key.quota} tokens"
                raise ApiError(told, status=429, code="insufficient_quota")
            waits = [bucket.wait() for _, bucket in self._limits(key)]
            if any(waits):
                told = f"the key '{key.name}' asks too often: try again in {max(waits):.1f} s"
                raise ApiError(told, status=429, code="rate_limit_exceeded", wait=max(waits))
            for kind, bucket in self._limits(key):
                bucket.left -= kind == "requests"

    def _limits(self, key: KeyRecord) -> list[tuple[str, Bucket]]:
        said: dict[str, Any] = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
        return [
            (kind, self._buckets.setdefault((key.id, kind), Bucket(size)))
            for kind, size in said.items()
            if size
        ]

    def settle(self, account: Account) -> None:
        """Count what a request has used."""
        tokens = account.asked + account.drawn
        if account.key is None:
            return
        with self._lock:
            self._used[account.key.id] = self._used.get(account.key.id, 0) + tokens
            for kind, bucket in self._limits(account.key):
                bucket.left -= tokens if kind == "tokens" else 0
