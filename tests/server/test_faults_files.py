"""FAULTS 33, 34, 36: names and ranges of files, and a store that is locked, full or gone."""

from __future__ import annotations

import os
import sqlite3

import httpx
import pytest
import sqlalchemy as sa

from rung import home
from tests.server.shop import base_folder, open_shop, rows
from tests.server.test_faults import fault_of


@pytest.fixture
def shop(rung_home, tmp_path):
    served = open_shop(base_folder(tmp_path / "tiny"), jobs=1)
    yield served
    served.stop()


@pytest.fixture
def http(shop):
    with httpx.Client(base_url=shop.url, timeout=30) as made:
        yield made
        assert made.get("/health").status_code == 200


def send(http, name="a.jsonl", content=b"0123456789", **form):
    files = {"file": (name, content)}
    return http.post("/v1/files", files=files, data={"purpose": "fine-tune", **form})


NAMES = [
    "../../x",
    "%252e%252e/x",
    "/etc/passwd",
    "a\\..\\b",
    "..",
    "nul",
    "x" * 3000,
    "a\x00b.jsonl",
    "ä\u202e.py",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda n: ascii(n)[:20])
def test_a_name_is_only_a_name(http, name, rung_home):
    before = {p for p in rung_home.rglob("*") if "cache" not in p.parts}
    answer = send(http, name)
    if answer.status_code == 400:  # what the form itself cannot carry
        return
    file = answer.json()
    made = {p for p in rung_home.rglob("*") if "cache" not in p.parts} - before
    stored = [p for p in made if p.is_file() and "rung.db" not in p.name]
    assert [p.parent for p in stored] == [home.folder("files")]
    assert stored[0].name.startswith(file["id"]) and len(file["filename"]) <= 255
    assert http.get(f"/v1/files/{file['id']}/content").content == b"0123456789"


def test_a_compressed_file_is_not_taken(http):
    answer = send(http, "rows.jsonl.gz")
    assert answer.status_code == 400 and "compressed" in answer.json()["error"]["message"]


def test_ids_lead_nowhere(http):
    for id in ("..", "../rung.db", "%2e%2e%2frung.db", "file-..", "%00"):
        assert http.get(f"/v1/files/{id}/content").status_code in (400, 404)


@pytest.mark.parametrize(
    ("given", "status", "content"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=-3", 206, b"789"),
        ("bytes=7-", 206, b"789"),
        ("bytes=0-99999999999999999", 206, b"0123456789"),
        ("bytes=20-30", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=4-2", 200, b"0123456789"),
        ("bytes=-", 200, b"0123456789"),
        ("bytes=0-1,3-4", 200, b"0123456789"),
        ("bytes=" + ",".join(f"{i}-{i}" for i in range(2000)), 200, b"0123456789"),
        ("bytes=" + "9" * 5000, 200, b"0123456789"),
        ("pages=1", 200, b"0123456789"),
    ],
)
def test_ranges_cost_nothing(http, given, status, content):
    id = send(http).json()["id"]
    answer = http.get(f"/v1/files/{id}/content", headers={"Range": given})
    assert answer.status_code == status
    assert content is None or answer.content == content
    if status == 416:
        assert fault_of(answer, 416)["message"] and answer.headers["content-range"] == "bytes */10"


def test_forms_that_are_none(http):
    for body, kind in (
        (b"", "multipart/form-data"), (b"x", "multipart/form-data; boundary=y"),
        (b"{}", "application/json"), (b"--y\r\n" * 1000, "multipart/form-data; boundary=y"),
    ):  # fmt: skip
        answer = http.post("/v1/files", content=body, headers={"Content-Type": kind})
        fault_of(answer, answer.status_code if answer.status_code < 500 else 400)
    fault_of(send(http, **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "5"}))
    fault_of(send(http, **{"expires_after[anchor]": "created_at"}))
    fault_of(send(http, purpose="fine-tune-results"))


def test_a_file_too_large(rung_home, tmp_path):
    from rung.server.state import Limits

    served = open_shop(base_folder(tmp_path / "tiny"), limits=Limits(max_file=100_000), jobs=0)
    try:
        with httpx.Client(base_url=served.url, timeout=30) as http:
            fault_of(send(http, content=b"x" * 120_000), 413)  # within the form's own margin
            fault_of(send(http, content=b"x" * 1_000_000), 413)
            assert list(home.folder("files").iterdir()) == []
            assert send(http, content=b"x" * 90_000).status_code == 200
    finally:
        served.stop()


@pytest.fixture
def hasty(shop):
    """The shop's store, which waits for a lock no longer than a second."""
    from rung.store import Store

    service = shop.app.state.service
    before, service._store = service.store, Store.open(busy_seconds=1)
    yield service.store
    service.store.close()
    service._store = before


@pytest.fixture
def resting(shop):
    """No job is taken up, so that none ends while the test looks."""
    shop.app.state.service.background[0].stop()


def order(http, id):
    return http.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": id})


def test_a_file_in_use_stays(http, resting):
    id = send(http, content=rows()).json()["id"]
    job = order(http, id).json()["id"]
    answer = http.delete(f"/v1/files/{id}")
    assert "in use" in fault_of(answer, 409)["message"]
    assert answer.headers["x-should-retry"] == "false"  # the official client would try twice more
    assert http.get(f"/v1/files/{id}/content").content == rows()
    assert http.post(f"/v1/fine_tuning/jobs/{job}/cancel").status_code == 200
    assert http.delete(f"/v1/files/{id}").json()["deleted"]


def test_a_store_that_is_locked_or_gone(http, hasty, rung_home):
    id = send(http).json()["id"]
    with sqlite3.connect(rung_home / "rung.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        answer = order(http, id)
        told = fault_of(answer, 503)["message"]
        assert "locked" in told and "retry-after" in answer.headers
        assert str(rung_home) not in told and "rung.db" not in told
        other.rollback()
    assert http.get(f"/v1/files/{id}").status_code == 200
    assert http.get("/v1/fine_tuning/jobs").json()["data"] == []  # nothing half-written
    for left in rung_home.glob("rung.db*"):
        os.rename(left, left.with_name("gone-" + left.name))
    told = fault_of(http.get(f"/v1/files/{id}"), 503)["message"]
    assert "deleted or replaced" in told and str(rung_home) not in told
    before = set(home.folder("files").iterdir())
    fault_of(send(http), 503)
    assert set(home.folder("files").iterdir()) == before
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    assert http.post("/v1/chat/completions", json=chat).status_code == 200


def test_a_store_that_is_full(http, hasty, resting):
    """SQLite meets the end of its room in the middle of writing a job and its first event."""
    id = send(http).json()["id"]
    engine = hasty._database._engine

    def full(connection, _):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")

    engine.dispose()
    sa.event.listen(engine, "connect", full)
    statuses, count = [], 0
    while 503 not in statuses:  # the last page has room for a few
        answer = order(http, id)
        statuses.append(answer.status_code)
        count += answer.status_code == 200
        assert count < 200
    assert "no space left" in fault_of(answer, 503)["message"] and "retry-after" in answer.headers
    engine.dispose()
    sa.event.remove(engine, "connect", full)
    jobs = http.get("/v1/fine_tuning/jobs", params={"limit": 1000}).json()["data"]
    assert len(jobs) == count
    for job in jobs:  # whoever is there has its first event too
        events = http.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]
        assert events[-1]["message"].startswith("Created fine-tuning job")
        http.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")


def test_a_disk_that_is_full(http, monkeypatch):
    import errno
    import shutil

    def no_room(source, target, size):
        target.write(b"begun")
        raise OSError(errno.ENOSPC, "No space left on device")

    before = set(home.folder("files").iterdir())
    with monkeypatch.context() as patch:  # what else is patched, such as the home, stays so
        patch.setattr(shutil, "copyfileobj", no_room)
        assert "No space left" in fault_of(send(http), 503)["message"]
    assert set(home.folder("files").iterdir()) == before
    assert send(http).status_code == 200
