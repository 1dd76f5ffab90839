"""Files, jobs and keys in the store."""

from __future__ import annotations

import pytest

from rung.errors import ConfigError
from rung.store import Store
from rung.store.files import fresh_id, in_lines, place
from rung.store.keys import digest_of
from rung.store.pages import UnknownCursor
from rung.store.serving import Conflict, FileNotFound, JobNotFound, JobRecord, KeyNotFound


def upload(store: Store, name: str = "a.jsonl", **settings):
    id = fresh_id()
    place(f"{id}.jsonl").write_bytes(b"{}\n")
    return store.files.put(id, name=name, purpose="fine-tune", stored=f"{id}.jsonl", size=3, **settings)


def asked(store: Store, file: str, id: str = "ftjob-1", **values):
    return store.jobs.put(JobRecord(id, "queued", "tiny", "tiny", "ft-1", file, **values))


def test_files_are_listed_in_pages(store: Store) -> None:
    made = [upload(store, f"{i}.jsonl") for i in range(5)]
    first = store.files.list(limit=2)
    assert [f.name for f in first.items] == ["4.jsonl", "3.jsonl"] and first.has_more
    rest = store.files.list(limit=3, after=first.items[-1].id)
    assert [f.name for f in rest.items] == ["2.jsonl", "1.jsonl", "0.jsonl"] and not rest.has_more
    old = store.files.list(descending=False, after=made[0].id, limit=1)
    assert [f.name for f in old.items] == ["1.jsonl"]
    assert not store.files.list(purpose="batch").items
    with pytest.raises(UnknownCursor):
        store.files.list(after="file-nope")


def test_a_file_goes_with_its_bytes_unless_a_job_needs_it(store: Store) -> None:
    file = upload(store)
    asked(store, file.id)
    with pytest.raises(Conflict, match="in use by ftjob-1"):
        store.files.remove(file.id)
    store.jobs.turn("ftjob-1", "cancelled", among=["queued"])
    store.files.remove(file.id)
    assert not place(file.stored).exists()
    with pytest.raises(FileNotFound):
        store.files.get(file.id)


def test_an_expired_file_is_gone(store: Store) -> None:
    file = upload(store, expires="2020-01-01T00:00:00.000000Z")
    keeps = upload(store, expires="2999-01-01T00:00:00.000000Z")
    with pytest.raises(FileNotFound):
        store.files.get(file.id)
    assert [f.id for f in store.files.list().items] == [keeps.id]
    assert store.files.expire() == 1
    assert not place(file.stored).exists() and place(keeps.stored).exists()


def test_a_jobs_status_turns_only_where_it_may(store: Store) -> None:
    job = asked(store, upload(store).id, notes={"a": "b"})
    assert store.jobs.turn(job.id, "running", among=["queued"]).status == "running"
    with pytest.raises(Conflict, match="is running"):
        store.jobs.turn(job.id, "queued", among=["paused"])
    done = store.jobs.turn(job.id, "failed", among=["running"], say="it broke", error={"code": "x"})
    assert done.finished and done.error == {"code": "x"}
    told = store.jobs.events(job.id).items
    assert [(e.level, e.message) for e in told][0] == ("error", "it broke")
    assert [j.id for j in store.jobs.list(notes={"a": "b"}).items] == [job.id]
    assert not store.jobs.list(notes={"a": "c"}).items
    assert not store.jobs.list(statuses=["queued"]).items
    with pytest.raises(JobNotFound):
        store.jobs.get("ftjob-2")
    with pytest.raises(UnknownCursor):
        store.jobs.events(job.id, after="x")


def test_a_job_keeps_its_newest_checkpoints(store: Store) -> None:
    job = asked(store, upload(store).id)
    gone = []
    for step in (1, 2, 3, 4, 3, 5):  # 3 again: a worker died and went back
        gone += store.jobs.checkpoint(job.id, step=step, model=f"m:{step}", folder="", metrics={})
    assert [c.step for c in store.jobs.checkpoints(job.id).items] == [5, 3, 2]
    assert [c.step for c in gone] == [1]
    page = store.jobs.checkpoints(job.id, limit=1)
    assert page.has_more
    rest = store.jobs.checkpoints(job.id, after=page.items[0].id)
    assert [c.step for c in rest.items] == [3, 2]


def test_a_key_is_kept_as_its_digest(store: Store) -> None:
    record, secret = store.keys.add("me", scopes=["ask"], quota=5)
    assert record.digest == digest_of(secret) and secret not in str(store.keys.list())
    assert record.may("ask") and not record.may("train")
    store.keys.spend({record.id: 3})
    store.keys.spend({record.id: 4})
    assert store.keys.list()[0].used == 7
    with pytest.raises(ConfigError, match="already"):
        store.keys.add("me")
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        store.keys.add("you", scopes=["trian"])
    store.keys.revoke("me")
    assert store.keys.list() == [] and len(store.keys.list(revoked=True)) == 1
    with pytest.raises(KeyNotFound):
        store.keys.revoke("me")
    store.keys.add("me")


def test_faults_of_data_name_lines_and_neither_files_nor_flags():
    file = f"/srv/files/file-{'0a' * 12}.jsonl"
    told = (
        f"1 of 3 rows are also in training ({file}:7 = {file}:9): remove them, or say --allow-leakage"
    )
    assert in_lines(told) == "1 of 3 rows are also in training (line 7 = line 9): remove them"
    assert in_lines(f"{file} holds no rows") == "the file holds no rows"
