"""Model responses that clients may continue or look at again; each belongs to the key that made it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from rung.errors import RungError
from rung.store import schema
from rung.store.database import Database
from rung.store.records import Record, now

_RESPONSES: sa.Table = schema.ModelResponse.__table__  # type: ignore[assignment]


class ResponseNotFound(RungError):
    """No response of that id."""

    http_status = 404


@dataclass(frozen=True, kw_only=True)
class ResponseRecord(Record):
    """A stored model response.

    Attributes:
        response: as the client got it.
        input: every item in front of the output, those of earlier responses among them.
        owner: id of the key that made it; None for keys of the command line, and without keys.
    """

    id: str
    response: dict[str, Any]
    input: Sequence[dict[str, Any]]
    created: str
    owner: str | None = None


class Responses:
    """The model responses of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self,
        response: dict[str, Any],
        input: Sequence[dict[str, Any]],
        *,
        most: int,
        owner: str | None = None,
    ) -> None:
        """Store a response, and delete the oldest of its owner beyond `most`."""
        values = {
            "id": response["id"], "created": now(), "owner": owner,
            "response": response, "input": {"items": list(input)},
        }  # fmt: skip
        columns = _RESPONSES.c
        own = columns.owner.is_(None) if owner is None else columns.owner == owner
        newest_first = (columns.created.desc(), columns.id.desc())
        old = sa.select(columns.id).where(own).order_by(*newest_first).offset(most)
        with self._database.write() as connection:
            connection.execute(sa.insert(_RESPONSES).values(schema.storable(values)))
            gone = list(connection.execute(old).scalars())
            if gone:
                connection.execute(sa.delete(_RESPONSES).where(columns.id.in_(gone)))

    def get(self, id: str, owner: str | None = None) -> ResponseRecord:
        """Read a response.

        Raises:
            ResponseNotFound: also for one of another owner than the one given.
        """
        query = sa.select(*_RESPONSES.c).where(_RESPONSES.c.id == id)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().first()
        if row is None or owner not in (None, row["owner"]):
            raise ResponseNotFound(f"no response '{id[:80]}'")
        return ResponseRecord(**{**row, "input": row["input"]["items"]})

    def remove(self, id: str, owner: str | None = None) -> None:
        """Forget a response; what was continued from it stays whole.

        Raises:
            ResponseNotFound: as `get` does.
        """
        self.get(id, owner)
        with self._database.write() as connection:
            connection.execute(sa.delete(_RESPONSES).where(_RESPONSES.c.id == id))
