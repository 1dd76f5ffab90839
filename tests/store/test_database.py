"""Opening, migrating, and what the store says when its database is in trouble."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from rung.errors import StoreError
from rung.store import Store, schema
from rung.store.database import parse_url
from rung.store.records import BaseRecord


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "store.db"
    Store.open(f"sqlite:///{path}").close()
    return path


def one_line(fault: pytest.ExceptionInfo[StoreError]) -> str:
    assert "\n" not in str(fault.value)
    lasting = ("read-only", "damaged", "newer", "inconsistent")
    expected = 500 if any(w in str(fault.value) for w in lasting) else 503
    assert fault.value.http_status == expected
    return str(fault.value)


def test_the_package_imports_without_sqlalchemy() -> None:
    code = (
        "import sys, rung.store, rung.artefacts.folders, rung.artefacts.cards, rung.artefacts.hub\n"
        "heavy = {'sqlalchemy', 'alembic', 'huggingface_hub', 'torch', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_opening_asks_little_once_the_tables_are_there(url: str) -> None:
    Store.open(url).close()
    said: list[str] = []

    def note(connection, cursor, statement, parameters, context, executemany) -> None:
        said.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        Store.open(url).close()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    asked = [s for s in said if s.startswith("SELECT alembic_version")]
    assert len(asked) == 1 and not any(s.startswith(("CREATE", "ALTER", "INSERT")) for s in said)


def test_the_migrations_make_what_the_code_expects(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    Store.open(url).close()
    engine = sa.create_engine(parse_url(url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.Table.metadata) == []
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", "rung.store:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD


def test_a_store_of_a_newer_rung_asks_for_an_upgrade(url: str) -> None:
    Store.open(url).close()
    engine = sa.create_engine(parse_url(url))
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(StoreError, match="newer Rung: upgrade") as fault:
        Store.open(url)
    one_line(fault)


def test_home_holds_the_store_unless_told_otherwise(
    rung_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.open().close()
    assert (rung_home / "rung.db").is_file()
    monkeypatch.setenv("RUNG_STORE", f"sqlite:///{tmp_path}/new/folder/other.db")
    Store.open().close()
    assert (tmp_path / "new/folder/other.db").is_file()


def test_a_home_that_cannot_be_made_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(StoreError, match="set RUNG_HOME") as fault:
        Store.open()
    one_line(fault)


def test_a_locked_store_says_so(file: Path, base: BaseRecord) -> None:
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with Store.open(f"sqlite:///{file}", busy_seconds=0.05) as store:
        assert store.models.list() == []  # readers do not wait
        with pytest.raises(StoreError, match="locked by another process: wait") as fault:
            store.models.put("coach", method="lora", base=base)
        one_line(fault)
        other.execute("ROLLBACK")
        store.models.put("coach", method="lora", base=base)
    other.close()


def test_a_full_disk_leaves_no_half_written_lineage(file: Path, base: BaseRecord) -> None:
    with Store.open(f"sqlite:///{file}") as store:
        engine = store._database._engine
        limit: Callable[..., object] = lambda c, _: c.execute("PRAGMA max_page_count=1")  # noqa: E731
        event.listen(engine, "connect", limit)
        engine.dispose()
        with pytest.raises(StoreError, match="no space left") as fault:
            store.models.put(
                "coach", method="lora", base=base, metrics={str(i): "x" * 99 for i in range(999)}
            )
        one_line(fault)
        event.remove(engine, "connect", limit)
        engine.dispose()
        assert (store.models.list(), store.bases.list()) == ([], [])


def test_a_read_only_store_can_be_read(file: Path, base: BaseRecord) -> None:
    with Store.open(f"sqlite:///file:{file}?mode=ro&uri=true") as store:
        assert store.models.list() == []
        with pytest.raises(StoreError, match="read-only: give yourself") as fault:
            store.models.put("coach", method="lora", base=base)
        one_line(fault)


@pytest.mark.parametrize("content", [b"this is no database at all" * 100, b"SQLite format 3\0" * 9])
def test_a_damaged_store_says_so(file: Path, content: bytes) -> None:
    for side in file.parent.glob("store.db-*"):
        side.unlink()
    file.write_bytes(content)
    with pytest.raises(StoreError, match="damaged: restore it from a backup") as fault:
        Store.open(f"sqlite:///{file}")
    one_line(fault)


def test_a_store_that_is_gone_does_not_swallow_what_is_written(file: Path, base: BaseRecord) -> None:
    with Store.open(f"sqlite:///{file}") as store:
        file.unlink()
        with pytest.raises(StoreError, match="deleted or replaced") as fault:
            store.models.put("coach", method="lora", base=base)
        one_line(fault)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "not a database URL: use sqlite"),
        ("mysql://host/x", "RUNG_STORE names 'mysql'"),
        ("sqlite://", "in memory"),
        ("sqlite:////proc/none/x.db", "cannot be opened"),
    ],
)
def test_an_unusable_url_says_what_would_do(url: str, words: str) -> None:
    with pytest.raises(StoreError, match=words) as fault:
        Store.open(url)
    one_line(fault)


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match="does not answer: check that the server") as fault:
        Store.open("postgresql://me:secret@127.0.0.1:1/none")
    assert "secret" not in one_line(fault)


def _put_models(url: str, base: BaseRecord, started: multiprocessing.synchronize.Event) -> None:
    with Store.open(url) as store:
        for i in range(10_000):
            store.models.put(f"m{i}", method="lora", base=base, parent=f"m{i - 1}" if i else None)
            started.set()


def test_a_kill_in_the_middle_leaves_whole_lineages(url: str, base: BaseRecord) -> None:
    context = multiprocessing.get_context("forkserver")  # threads of other tests may hold locks here
    started = context.Event()
    worker = context.Process(target=_put_models, args=(url, base, started))
    worker.start()
    assert started.wait(30)
    time.sleep(0.1)
    assert worker.pid
    os.kill(worker.pid, 9)
    worker.join()
    with Store.open(url) as store:
        names = [model.name for model in store.models.list()]
        assert sorted(names, key=lambda n: int(n[1:])) == [f"m{i}" for i in range(len(names))]
        last = store.lineage(f"m{len(names) - 1}")
        assert sum(node.kind == "base" for node in last.walk()) == 1


def _write_runs(url: str, base: BaseRecord, writer: int, count: int) -> None:
    with Store.open(url) as store:
        for i in range(count):
            store.models.put(f"w{writer}-{i}", method="lora", base=base)


def test_eight_processes_migrate_and_write_one_store(url: str, base: BaseRecord) -> None:
    """All open a store that has no tables yet, so that they migrate it under each other's writes."""
    context = multiprocessing.get_context("forkserver")  # threads of other tests may hold locks here
    workers = [context.Process(target=_write_runs, args=(url, base, i, 10)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 8
    with Store.open(url) as store:
        assert {m.name for m in store.models.list()} == {
            f"w{w}-{i}" for w in range(8) for i in range(10)
        }
