"""Stores to test against: SQLite, and a real PostgreSQL server (tests/postgres.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rung.store import Store
from rung.store.records import BaseRecord, DatasetRecord
from tests import postgres

MISSING = "no PostgreSQL server: install Debian's postgresql, or set RUNG_TEST_POSTGRES"


@pytest.fixture(autouse=True)
def rung_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for each test."""
    home = tmp_path / "home"
    monkeypatch.setenv("RUNG_HOME", str(home))
    monkeypatch.delenv("RUNG_STORE", raising=False)
    return home


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL server's database. CI may not go without."""
    if not postgres.AVAILABLE:
        assert not os.environ.get("CI"), MISSING
        pytest.skip(MISSING)
    with postgres.serving() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
        return
    import sqlalchemy as sa

    from rung.store.database import parse_url

    found = request.getfixturevalue("server")
    engine = sa.create_engine(parse_url(found))
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    yield found


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An open, empty store."""
    with Store.open(url) as opened:
        yield opened


@pytest.fixture
def base() -> BaseRecord:
    return BaseRecord("b" * 64, "smol", "hub:org/smol", "apache-2.0")


@pytest.fixture
def quotes() -> DatasetRecord:
    return DatasetRecord("d" * 64, "quotes", "quotes.json", "cc-by-nc-4.0", rows=5, format="alpaca")
