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
ON_BEHALF = "rung.on_behalf"  # of an ASGI scope
UNREAD = "the keys of this server could not be read yet: try again in a moment"
WRONG = "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'"


@dataclass
class Account:
    """What one request uses, and on whose behalf.

    Attributes:
        key: None for a key of the command line, or where no keys are set.
        asked, drawn: tokens of prompts and answers. model: who answered.
        held: tokens that are reserved for the request until it is settled.
        access: what counts them; None where nothing is counted.
    """

    key: KeyRecord | None = None
    model: str = ""
    asked: int = 0
    drawn: int = 0
    held: int = 0
    access: Access | None = field(default=None, repr=False)

    def spend(self, asked: int, drawn: int) -> None:
        """Note what was used."""
        self.asked, self.drawn = asked, drawn

    def reserve(self, tokens: int) -> None:
        """Hold the most that the request can use, before anything is computed for it.

        Raises:
            ApiError: 429 where rate or quota do not allow so much.
        """
        if self.access is not None:
            self.access.reserve(self, tokens)

    def allowance(self) -> int | None:
        """Tokens that rate and quota allow now; None: no limit."""
        return None if self.access is None else self.access.allowance(self)

    def needs(self, scope: str) -> None:
        """Raises ApiError (403) where the key does not open that."""
        if self.key is not None and not self.key.may(scope):
            raise ApiError(
                f"the key '{self.key.name}' has no scope '{scope}'", status=403, code="missing_scope"
            )


@dataclass(frozen=True)
class OnBehalf:
    """Whose request it is that the server asks itself, put into its ASGI scope as `ON_BEHALF`.

    No header, path or body can put an object there: only code of this process does.

    Attributes:
        key: id of a key; None for one of the command line, or where no keys were set.
    """

    key: str | None


@dataclass
class Bucket:
    """So many units a minute, refilled evenly."""

    size: float
    left: float = field(init=False)
    at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.left = self.size

    def wait(self, units: float = 1) -> float:
        """Seconds until so many units are there; 0 when they are."""
        moment = time.monotonic()
        self.left = min(self.size, self.left + (moment - self.at) * self.size / MINUTE)
        self.at = moment
        return 0.0 if self.left >= units else (units - self.left) * MINUTE / self.size


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
        self._closed = False  # whether the store has ever had a key
        self._read = False  # whether the store's keys were ever read
        self._read_at = float("-inf")
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._used: dict[str, int] = {}  # tokens that the store has yet to be told of, by key
        self._held: dict[str, int] = {}  # tokens that requests in flight may still use, by key
        self._lock, self._refreshing = threading.Lock(), threading.Lock()

    @property
    def stale(self) -> bool:
        """Whether the store should be asked again."""
        return not self._read or time.monotonic() - self._read_at > FRESH

    @property
    def owes(self) -> bool:
        """Whether the store has yet to be told what was used."""
        return bool(self._used) and self.stale

    def refresh(self) -> None:
        """Hand over what was used, and read the keys again; keeps the old ones where that fails.

        Nobody is let in without a key before they were read once.
        """
        self._read_at = time.monotonic()
        with self._refreshing:  # else what was used would be handed over twice
            with self._lock:
                used = dict(self._used)
            try:
                keys = self._keys()
                if used:
                    keys.spend(used)
                every = keys.list(revoked=True)
            except StoreError:
                return
            with self._lock:  # what the store now knows is no longer counted here
                self._known = [key for key in every if key.revoked is None]
                self._closed, self._read = bool(every), True
                for id, tokens in used.items():
                    self._used[id] -= tokens
                    if not self._used[id]:
                        del self._used[id]

    @property
    def locked(self) -> bool:
        """Whether a key is needed at all, as far as one knows.

        It is once the store has had one: revoking the last key lets nobody in.
        """
        return bool(self._fixed or self._closed or not self._read)

    def account(self, authorization: str) -> Account:
        """Whose request it is.

        Raises:
            ApiError: 401 for an unknown key, 429 for one that has used up its rate or quota.
        """
        key = self.find(authorization)
        if key is None:
            return Account()
        self._admit(key)
        return Account(key, access=self)

    def account_on_behalf(self, id: str | None) -> Account:
        """The account of a key that the server itself asks for; None: as a key of the command line.

        Raises:
            ApiError: 401 for a key that was revoked, 429 as `account` does.
        """
        if id is None:
            return Account()
        key = next((known for known in self._known if known.id == id), None)
        if key is None:
            raise ApiError("the API key was revoked", status=401)
        self._admit(key)
        return Account(key, access=self)

    def find(self, authorization: str) -> KeyRecord | None:
        """The key that is sent; None for one of the command line, or where none is needed.

        Raises:
            ApiError: 401 for an unknown key, 503 where no key could be read yet.
        """
        if not self.locked:
            return None
        kind, _, given = authorization.partition(" ")
        digest = digest_of(given.strip().encode("latin-1"))  # the bytes that were sent
        # Every key is compared in full, so that the time says nothing about any of them.
        fixed = [hmac.compare_digest(digest, known) for known in self._fixed]
        found = [key for key in self._known if hmac.compare_digest(digest, key.digest)]
        if kind.lower() != "bearer" or not (any(fixed) or found):
            if not self._read:
                raise ApiError(UNREAD, status=503)
            raise ApiError(WRONG, status=401)
        return None if any(fixed) else found[0]

    def _admit(self, key: KeyRecord) -> None:
        with self._lock:
            self._check_quota(key, 1)
            limits = self._limits(key)
            if waits := [wait for _, bucket in limits if (wait := bucket.wait())]:
                told = f"the key '{key.name}' asks too often: try again in {max(waits):.1f} s"
                raise ApiError(told, status=429, code="rate_limit_exceeded", wait=max(waits))
            for kind, bucket in limits:
                bucket.left -= kind == "requests"

    def reserve(self, account: Account, tokens: int) -> None:
        """Hold tokens for a request until `settle`. Raises ApiError as `Account.reserve` does."""
        key = account.key
        assert key is not None
        with self._lock:
            self._check_quota(key, tokens)
            for kind, bucket in self._limits(key):
                if kind == "tokens" and (wait := bucket.wait(tokens)):
                    raise _too_fast(key, tokens, bucket, wait)
            for kind, bucket in self._limits(key):
                bucket.left -= tokens if kind == "tokens" else 0
            self._held[key.id] = self._held.get(key.id, 0) + tokens
            account.held += tokens

    def allowance(self, account: Account) -> int | None:
        """Tokens that rate and quota of a request's key allow now; None: no limit."""
        key = account.key
        assert key is not None
        with self._lock:
            left: list[float] = []
            if key.quota is not None:
                left.append(key.quota - self._spent(key) - self._held.get(key.id, 0))
            for kind, bucket in self._limits(key):
                if kind == "tokens":
                    bucket.wait()
                    left.append(bucket.left)
            return int(min(left)) if left else None

    def _spent(self, key: KeyRecord) -> int:
        """Tokens that a key has used, by the store's count and what it has yet to be told."""
        known = next((k.used for k in self._known if k.id == key.id), key.used)
        return known + self._used.get(key.id, 0)

    def _check_quota(self, key: KeyRecord, tokens: int) -> None:
        if key.quota is None:
            return
        used, held = self._spent(key), self._held.get(key.id, 0)
        if used + tokens > key.quota:
            told = f"the key '{key.name}' has used {used} of its {key.quota} tokens"
            more = f", and this request may use {tokens}" if tokens > 1 else ""
            raise ApiError(told + more, status=429, code="insufficient_quota")
        if used + held + tokens > key.quota:
            told = f"requests in flight may use what is left of the quota of the key '{key.name}'"
            raise ApiError(told, status=429, code="rate_limit_exceeded", wait=1.0)

    def _limits(self, key: KeyRecord) -> list[tuple[str, Bucket]]:
        said: dict[str, Any] = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
        return [
            (kind, self._buckets.setdefault((key.id, kind), Bucket(size)))
            for kind, size in said.items()
            if size
        ]

    def settle(self, account: Account) -> None:
        """Count what a request has used, and give back what was held beyond it."""
        key, tokens = account.key, account.asked + account.drawn
        if key is None:
            return
        with self._lock:
            if tokens:
                self._used[key.id] = self._used.get(key.id, 0) + tokens
            if account.held:
                self._held[key.id] -= account.held
                if not self._held[key.id]:
                    del self._held[key.id]
            for kind, bucket in self._limits(key):
                bucket.left -= (tokens - account.held) if kind == "tokens" else 0
            account.held = 0


def _too_fast(key: KeyRecord, tokens: int, bucket: Bucket, wait: float) -> ApiError:
    if tokens > bucket.size:
        told = f"the request may use {tokens} tokens, the key '{key.name}' {bucket.size:g} a minute"
        code = "request_exceeds_rate"
        return ApiError(f"{told}: ask for fewer with max_tokens", status=429, code=code)
    told = f"the key '{key.name}' asks too often: try again in {wait:.1f} s"
    return ApiError(told, status=429, code="rate_limit_exceeded", wait=wait)
