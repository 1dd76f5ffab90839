"""A part of a list: so many records behind a given one, by when they were made."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from rung.errors import RungError


class UnknownCursor(RungError):
    """`after` names nothing that is in the list."""


def page(
    connection: Connection,
    table: sa.FromClause,
    conditions: list[Any],
    after: Any | None,
    limit: int,
    descending: bool = True,
) -> tuple[list[RowMapping], bool]:
    """Rows and whether more follow, ordered by `created` and then `id`.

    Args:
        after: the id of the row before the first one wanted.

    Raises:
        UnknownCursor: when `after` is not among the rows.
    """
    columns = table.c
    query = sa.select(*columns).where(*conditions)
    if after is not None:
        at = connection.execute(
            sa.select(columns.created, columns.id).where(columns.id == after, *conditions)
        ).first()
        if at is None:
            raise UnknownCursor(f"'after' is '{str(after)[:80]}', which is not in the list")
        behind = sa.tuple_(columns.created, columns.id)
        mark = sa.tuple_(sa.literal(at[0]), sa.literal(at[1]))
        query = query.where(behind < mark if descending else behind > mark)
    order = (columns.created, columns.id)
    query = query.order_by(*(c.desc() if descending else c.asc() for c in order))
    rows = list(connection.execute(query.limit(limit + 1)).mappings())
    return rows[:limit], len(rows) > limit
