"""A store that an earlier Rung wrote opens with all that is in it."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from rung.store import Store
from rung.store.climbs import RungRecord

OLD = Path(__file__).with_name("revision_0003.sql")


def test_a_store_of_the_last_release_keeps_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(OLD.read_text(encoding="utf-8"))
    connection.close()
    with Store.open(f"sqlite:///{path}") as store:
        (climb,) = store.climbs.list()
        base, lora = store.climbs.rungs(climb.id)
        assert climb.status == "interrupted" and [base.key, lora.key] == ["base", "lora"]
        assert base.items == {"validation": {"answers": ["a", "b"], "worth": [1.0, 0.0]}}
        assert base.metrics["validation"]["value"] == 0.5 and lora.items == {}
        (job,) = store.jobs.list(kind="tune").items
        assert job.status == "queued" and job.kind == "tune" and job.owner is None
        assert len(store.jobs.events(job.id).items) == 1
        assert store.files.get(job.training_file).owner is None
        (key,) = store.keys.list()
        assert key.used == 5 and key.may("train") and key.may("metrics")
        assert store.jobs.list(kind="climb").items == []


def test_a_rung_is_updated_where_it_is(store: Store, base, quotes) -> None:
    """Its items stay when its row changes, and only what changed is written."""
    climb = store.climbs.create("x", task={}, base=base, data=quotes)
    rung = RungRecord(climb.id, "lora", "lora", items={"validation": {"texts": ["a" * 1000]}})
    store.climbs.put(rung)
    written = []
    engine = store._database._engine
    from sqlalchemy import event

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection, cursor, statement, parameters, context, executemany):
        written.append(statement)

    from dataclasses import replace

    store.climbs.put(replace(rung, status="running", place=3))
    changed = [s for s in written if s.startswith(("UPDATE rung", "DELETE", "INSERT"))]
    assert len(changed) == 1
    named = re.findall(r"(\w+)=", changed[0].partition(" WHERE ")[0])
    assert named == ["place", "status"]
    (found,) = store.climbs.rungs(climb.id)
    assert (found.status, found.place, found.items) == ("running", 3, rung.items)
    assert store.climbs.rungs(climb.id, items=False)[0].items == {}


def test_the_code_expects_the_newest_migration() -> None:
    """Else a store of the last release would never get the newest tables."""
    from importlib.resources import files

    from rung.store.schema import HEAD

    found = [
        f.name[:4] for f in files("rung.store.migrations.versions").iterdir() if f.name[:4].isdigit()
    ]
    assert max(found) == HEAD
