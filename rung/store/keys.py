"""Keys of the server: who may ask, and how much. Only a key's SHA-256 is kept.

A key is 32 random bytes, so a plain hash is enough: there is nothing to guess that a slow one would
protect.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from rung.errors import ConfigError, nearest
from rung.store import schema
from rung.store.database import Database
from rung.store.records import now
from rung.store.serving import SCOPES, KeyNotFound, KeyRecord

_KEYS: sa.Table = schema.Key.__table__  # type: ignore[assignment]


def digest_of(key: str | bytes) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


class Keys:
    """The keys of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        name: str,
        *,
        scopes: Sequence[str] = SCOPES,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        quota: int | None = None,
    ) -> tuple[KeyRecord, str]:
        """A fresh key: its record and the secret, which cannot be had again.

        Raises:
            ConfigError: for an unknown scope, or a name that is empty or taken.
        """
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            word = unknown[0] if unknown else ""
            raise ConfigError(f"'{word}' is no scope of a key{nearest(word, SCOPES)}")
        if not name.strip() or len(name) > 64:
            raise ConfigError("a key needs a name of 1 to 64 characters")
        secret = f"rung-{secrets.token_urlsafe(32)}"
        record = KeyRecord(
            f"key-{secrets.token_hex(4)}", name, digest_of(secret), ",".join(dict.fromkeys(scopes)),
            requests_per_minute, tokens_per_minute, quota, created=now(),
        )  # fmt: skip
        with self._database.write() as connection:
            taken = sa.select(_KEYS.c.id).where(_KEYS.c.name == name, _KEYS.c.revoked.is_(None))
            if connection.execute(taken).first():
                raise ConfigError(f"there is a key '{name}' already: revoke it, or take another name")
            connection.execute(sa.insert(_KEYS).values(schema.storable(record.as_dict())))
        return record, secret

    def list(self, *, revoked: bool = False) -> list[KeyRecord]:
        """Keys in the order they were made; revoked ones only where asked for."""
        query = sa.select(*_KEYS.c).order_by(_KEYS.c.created, _KEYS.c.id)
        if not revoked:
            query = query.where(_KEYS.c.revoked.is_(None))
        with self._database.read() as connection:
            return [KeyRecord(**row) for row in connection.execute(query).mappings()]

    @property
    def closed(self) -> bool:
        """Whether nobody is let in without a key: there is one, or was before it was revoked."""
        return bool(self.list(revoked=True))

    def revoke(self, key: str) -> KeyRecord:
        """Shut a key out for good, by its id or name. Raises KeyNotFound naming the nearest."""
        with self._database.write() as connection:
            named = sa.or_(_KEYS.c.id == key, _KEYS.c.name == key)
            query = sa.select(*_KEYS.c).where(named, _KEYS.c.revoked.is_(None))
            row = connection.execute(query).mappings().first()
            if row is None:
                known = sa.select(_KEYS.c.name).where(_KEYS.c.revoked.is_(None))
                names = connection.execute(known).scalars().all()
                raise KeyNotFound(f"no key '{key}' (rung keys list shows them){nearest(key, names)}")
            change = sa.update(_KEYS).where(_KEYS.c.id == row["id"]).values(revoked=now())
            connection.execute(change)
            return KeyRecord(**row)

    def forget_revoked(self) -> int:
        """Delete the keys that were revoked, and count them; a store without keys lets everybody in."""
        with self._database.write() as connection:
            return connection.execute(sa.delete(_KEYS).where(_KEYS.c.revoked.is_not(None))).rowcount

    def spend(self, tokens: Mapping[str, int]) -> None:
        """Add tokens to what keys have used, by id."""
        with self._database.write() as connection:
            for id, count in tokens.items():
                values = {"used": _KEYS.c.used + count, "last_used": now()}
                connection.execute(sa.update(_KEYS).where(_KEYS.c.id == id).values(values))
