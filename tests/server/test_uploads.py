"""Files that arrive in parts."""

from __future__ import annotations

import hashlib
import os
import time

import httpx
import openai
import pytest

from rung import home
from rung.server.state import Limits
from rung.store import Store
from tests.engine.world import engine_of, tiny_llama
from tests.server.conftest import serve
from tests.server.shop import client_of, rows

HOUR = 3600  # seconds


@pytest.fixture(scope="module")
def engine():
    return engine_of(tiny_llama(), ())


@pytest.fixture
def served(engine, rung_home):
    made = serve(engine, limits=Limits(max_file=1 << 20))
    yield made
    made.stop()


def kept():
    return sorted(path.name for path in home.folder("uploads").iterdir())


def begun(client, size, **settings):
    asked = {"bytes": size, "filename": "big.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    return client.uploads.create(**{**asked, **settings})


def part(client, upload, content):
    return client.uploads.parts.create(upload.id, data=content).id


def refused(status, call, **settings):
    with pytest.raises(openai.APIStatusError) as fault:
        call(**settings)
    assert fault.value.status_code == status, fault.value
    return fault.value


def test_three_parts_become_a_file_like_any_other(served):
    content = rows(40)
    pieces = [content[:100], content[100:1000], content[1000:]]
    with client_of(served) as client:
        upload = begun(client, len(content), expires_after={"anchor": "created_at", "seconds": HOUR})
        assert upload.status == "pending" and upload.expires_at - upload.created_at == HOUR
        last, first, middle = (part(client, upload, pieces[i]) for i in (2, 0, 1))
        extra = part(client, upload, b"sent, and not wanted")
        assert kept() == sorted([last, first, middle, extra])
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        order = [first, middle, last]
        done = client.uploads.complete(upload.id, part_ids=order, md5=digest.upper())
        assert done.status == "completed" and done.file.bytes == len(content)
        assert client.files.content(done.file.id).content == content
        listed = client.files.list().data[0]
        assert listed == done.file and listed.filename == "big.jsonl"
        assert listed.expires_at - listed.created_at == HOUR
        assert kept() == []
        assert "completed" in str(
            refused(409, client.uploads.complete, upload_id=upload.id, part_ids=order)
        )
        refused(409, client.uploads.parts.create, upload_id=upload.id, data=b"x")
        refused(409, client.uploads.cancel, upload_id=upload.id)


def test_the_clients_own_helper_uploads_in_chunks(served, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(rows(30))
    with client_of(served) as client:
        done = client.uploads.upload_file_chunked(
            file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=512
        )
        assert client.files.content(done.file.id).content == path.read_bytes()


def test_what_does_not_fit_is_refused_and_nothing_stays(served):
    with client_of(served) as client:
        assert refused(413, begun, client=client, size=(1 << 20) + 1).param == "bytes"
        for bad in ({"size": 0}, {"size": 5, "filename": "x.jsonl.gz"}, {"size": 5, "purpose": "loot"},
                    {"size": 5, "expires_after": {"anchor": "created_at", "seconds": 5}}):  # fmt: skip
            refused(400, begun, client=client, **bad)
        upload, other = begun(client, 6), begun(client, 6)
        one, two, theirs = (part(client, u, b"abc") for u in (upload, upload, other))
        for ids in ([one], [one, two, one], [one, theirs], [one, "../x"]):
            fault = refused(400, client.uploads.complete, upload_id=upload.id, part_ids=ids)
            assert fault.param == "part_ids"
        wrong = {"part_ids": [one, two], "md5": "0" * 32}
        assert refused(400, client.uploads.complete, upload_id=upload.id, **wrong).param == "md5"
        assert "twice" in str(refused(409, part, client=client, upload=upload, content=b"1234567"))
        refused(400, part, client=client, upload=upload, content=b"")
        assert kept() == sorted([one, two, theirs])
        assert client.uploads.cancel(upload.id).status == "cancelled"
        refused(409, part, client=client, upload=upload, content=b"a")
        assert kept() == [theirs]
        assert not list(home.folder("files").iterdir()) and not client.files.list().data


def test_an_upload_expires_and_its_parts_go(served):
    from rung.store.schema import Upload

    with client_of(served) as client, Store.open() as store:
        upload = begun(client, 3)
        made = part(client, upload, b"abc")
        with store._database.write() as connection:
            connection.execute(Upload.__table__.update().values(expires="2020-01-01T00:00:00.000000Z"))
        fault = refused(409, client.uploads.complete, upload_id=upload.id, part_ids=[made])
        assert "expired" in str(fault)
        old = time.time() - 2 * HOUR
        os.utime(home.folder("uploads") / made, (old, old))
        begun(client, 3)
        assert kept() == []


def test_uploads_belong_to_the_key_that_made_them(served):
    with Store.open() as store:
        ann, ben = (store.keys.add(name, scopes=["train"])[1] for name in ("ann", "ben"))
    served.app.state.service.access.refresh()
    with client_of(served, ann) as mine, client_of(served, ben) as other:
        upload = begun(mine, 3)
        made = part(mine, upload, b"abc")
        refused(404, part, client=other, upload=upload, content=b"abc")
        refused(404, other.uploads.complete, upload_id=upload.id, part_ids=[made])
        refused(404, other.uploads.cancel, upload_id=upload.id)
        file = mine.uploads.complete(upload.id, part_ids=[made]).file
        assert mine.files.retrieve(file.id).bytes == 3
        refused(404, other.files.retrieve, file_id=file.id)


def test_a_part_may_be_larger_than_other_bodies(engine, rung_home):
    made = serve(engine, limits=Limits(max_body=1000, max_file=50_000))
    try:
        with client_of(made) as client:
            upload = begun(client, 20_000)
            assert part(client, upload, b"x" * 20_000)
        answer = httpx.post(f"{made.url}/v1/uploads", json={"filename": "x" * 2000})
        assert answer.status_code == 413
    finally:
        made.stop()
