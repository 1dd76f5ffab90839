"""What all tests share: a home of their own, and a fair share of the cores."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import settings

from rung.store import database

# How long an example takes says more of the machine than of the code.
settings.register_profile("rung", deadline=None)
settings.load_profile("rung")

ROOT = Path(__file__).resolve().parent.parent

# Each worker computes with its share of the cores; must be set before torch is imported.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _workers > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


# Parts of the cache that follow from content alone and outlive the run. What depends on an address
# that another server may have tomorrow, or on how busy the machine was, is each test's own.
SHARED = ("bases", "compiled", "digests", "features", "npm", "probes", "vectors", "wheels")


def _prepare(folder: Path) -> Path:
    """A home whose cache shares what is dear with other tests and later runs."""
    cache = Path(os.environ.get("RUNG_TEST_CACHE") or ROOT / "build" / "test-cache")
    (folder / "cache").mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        (cache / name).mkdir(parents=True, exist_ok=True)
        (folder / "cache" / name).symlink_to(cache / name, target_is_directory=True)
    return folder


# The user's own home is never touched, not even by a fixture that forgets to ask for one.
_session_home = tempfile.TemporaryDirectory(prefix="rung-tests-")
os.environ["RUNG_HOME"] = str(_prepare(Path(_session_home.name)))
os.environ.pop("RUNG_STORE", None)


@cache
def _tables() -> tuple[str, ...]:
    """What makes the tables of a store that all migrations have passed over, as SQL."""
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.begin() as connection:
        _migrate(connection, "memory")
        raw = connection.connection.driver_connection
        return tuple(line for line in raw.iterdump() if not line.startswith(("BEGIN", "COMMIT")))


_migrate = database._upgrade


def _tables_at_once(connection: sqlalchemy.Connection, shown: str) -> None:
    """Migrate a store; an empty one gets at once the tables that migrations would end with."""
    if connection.dialect.name != "sqlite" or sqlalchemy.inspect(connection).get_table_names():
        _migrate(connection, shown)
        return
    for line in _tables():
        connection.exec_driver_sql(line)


@pytest.fixture
def rung_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """An empty home for this test alone; processes that the test starts see it too."""
    home = _prepare(tmp_path / "home")
    monkeypatch.setenv("RUNG_HOME", str(home))
    if request.path.parent.name != "store":  # whose tests are of the migrations too
        monkeypatch.setattr(database, "_upgrade", _tables_at_once)
    yield home


_seen: list[object] = [None]  # the file of the test that ran last


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Keep what a file of tests finds here (libraries, every test that was collected) out of later
    collections of garbage: they would look through millions of objects that never go."""
    if item.path != _seen[0]:
        _seen[0] = item.path
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests are skipped where there is none, so that plain `pytest` works anywhere."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
