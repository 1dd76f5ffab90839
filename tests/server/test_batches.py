"""Batches, through the official client, against a server over random weights."""

from __future__ import annotations

import json
import os
import time

import httpx
import openai
import pytest

from rung.server.access import ON_BEHALF
from rung.server.batches import runner
from rung.server.state import Limits, Settings
from rung.store import Store
from rung.store.batches import journal
from tests.engine.world import engine_of, tiny_llama
from tests.server.conftest import serve
from tests.server.shop import client_of

CHAT = "/v1/chat/completions"
OVER = ("completed", "failed", "cancelled", "expired")


@pytest.fixture(scope="module")
def engine():
    return engine_of(tiny_llama(), ("lora",), max_batch=4)


@pytest.fixture
def served(engine, rung_home):
    made = serve(engine)
    yield made
    made.stop()


def body(i=0, tokens=3, **more):
    asked = {"model": "base", "messages": [{"role": "user", "content": f"Say {i}"}]}
    return {**asked, "max_tokens": tokens, "seed": 1, **more}


def line(i, url=CHAT, asked=None, **more):
    made = {"custom_id": f"row-{i}", "method": "POST", "url": url, "body": asked or body(i), **more}
    return json.dumps(made)


def uploaded(client, lines):
    content = "\n".join(lines).encode()
    return client.files.create(file=("batch.jsonl", content), purpose="batch").id


def ordered(client, lines, endpoint=CHAT, **more):
    file = uploaded(client, lines)
    window = {"completion_window": "24h", "endpoint": endpoint}
    return client.batches.create(input_file_id=file, **window, **more)


def until(client, batch, *statuses, seconds=60):
    end = time.monotonic() + seconds
    while (found := client.batches.retrieve(batch.id)).status not in (statuses or OVER):
        assert time.monotonic() < end, found.to_json()
        time.sleep(0.02)
    return found


def told(client, file):
    """Lines of an output or error file by their custom_id."""
    lines = [json.loads(raw) for raw in client.files.content(file).text.splitlines()]
    assert len({one["id"] for one in lines}) == len(lines) == len({one["custom_id"] for one in lines})
    return {one["custom_id"]: one for one in lines}


def test_a_batch_is_answered_as_its_requests_would_be_one_by_one(served):
    asked = [body(0), body(1, model="lora"), body(2, model="nobody"), body(3, response_format=5)]
    with client_of(served) as client:
        lines = [line(i, asked=one) for i, one in enumerate(asked)]
        lasts = {"anchor": "created_at", "seconds": 7200}
        batch = ordered(client, lines, metadata={"for": "tests"}, output_expires_after=lasts)
        assert batch.status == "validating" and batch.metadata == {"for": "tests"}
        assert batch.expires_at - batch.created_at == 24 * 3600
        done = until(client, batch)
        assert done.status == "completed" and done.errors is None
        counts = done.request_counts
        assert (counts.total, counts.completed, counts.failed) == (4, 2, 2)
        assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
        output, errors = told(client, done.output_file_id), told(client, done.error_file_id)
        assert set(output) == {"row-0", "row-1"} and set(errors) == {"row-2", "row-3"}
        for i in (0, 1):
            found = output[f"row-{i}"]
            assert found["error"] is None and found["response"]["status_code"] == 200
            assert found["response"]["request_id"].startswith("req_")
            alone = client.chat.completions.create(**asked[i])
            assert found["response"]["body"]["choices"] == alone.to_dict()["choices"]
        assert errors["row-2"]["response"]["status_code"] == 404
        assert errors["row-2"]["response"]["body"]["error"]["code"] == "model_not_found"
        assert errors["row-3"]["response"]["status_code"] == 400
        used = [one["response"]["body"]["usage"]["total_tokens"] for one in output.values()]
        assert done.usage.total_tokens == sum(used) > 0
        file = client.files.retrieve(done.output_file_id)
        assert file.purpose == "batch_output" and file.expires_at - file.created_at == 7200
        (listed,) = client.batches.list().data
        assert listed.id == batch.id
        assert not journal(batch.id).exists()


def test_other_endpoints(served):
    texts = {"model": "base", "prompt": "Hello", "max_tokens": 2}
    vectors = {"model": "base", "input": ["a", "b"]}
    response = {"model": "base", "input": "Hello", "max_output_tokens": 2}
    with client_of(served) as client:
        for url, asked in (
            ("/v1/completions", texts), ("/v1/embeddings", vectors), ("/v1/responses", response),
        ):  # fmt: skip
            done = until(client, ordered(client, [line(0, url, asked)], endpoint=url))
            assert done.status == "completed", done
            found = told(client, done.output_file_id)["row-0"]["response"]["body"]
            assert found["model"] == done.model == "base"
            assert done.usage.total_tokens == found["usage"]["total_tokens"] and not done.error_file_id
        for endpoint in ("/v1/moderations", "/v1/images/generations"):
            with pytest.raises(openai.BadRequestError) as fault:
                ordered(client, [line(0)], endpoint=endpoint)
            assert fault.value.param == "endpoint"


def test_bad_lines_are_named_before_any_is_asked(served):
    wrong = [
        (2, line(0), "duplicate_custom_id"),
        (3, "{", "invalid_json_line"),
        (4, "[]", "invalid_json_line"),
        (5, '{"custom_id": "\\ud800"}', "invalid_json_line"),
        (6, line(1, method="GET"), "invalid_method"),
        (7, line(2, url="/v1/embeddings"), "invalid_url"),
        (8, line(3, asked=[1]), "invalid_value"),
        (9, line(4, asked=body(stream=True)), "invalid_value"),
        (
            10,
            json.dumps({"custom_id": "a", "method": "POST", "url": CHAT}),
            "missing_required_parameter",
        ),
        (12, line(5, priority=1), "unknown_parameter"),
    ]
    lines = [line(0), *(one for _, one, _ in wrong)]
    lines.insert(10, "")  # a blank line is none, and is counted
    with client_of(served) as client:
        done = until(client, ordered(client, lines))
        assert done.status == "failed" and done.failed_at and not done.in_progress_at
        assert [(e.line, e.code) for e in done.errors.data] == [(n, code) for n, _, code in wrong]
        assert done.output_file_id is None and done.request_counts.total == 0
        done = until(client, ordered(client, ["", " "]))
        assert [e.code for e in done.errors.data] == ["empty_file"]
        file = client.files.create(file=("x.jsonl", b"{}"), purpose="fine-tune").id
        for id in (file, "file-nothing", "../../x"):
            with pytest.raises(openai.BadRequestError) as fault:
                client.batches.create(input_file_id=id, endpoint=CHAT, completion_window="24h")
            assert fault.value.param == "input_file_id"
        with pytest.raises(openai.NotFoundError):
            client.batches.retrieve("batch_nothing")


def test_files_and_lines_are_bounded(served, monkeypatch):
    from rung.server.batches import lines as checks
    from rung.server.routes import batches as route

    monkeypatch.setattr(checks, "MAX_LINES", 2)
    monkeypatch.setattr(route, "MAX_BYTES", 1000)
    with client_of(served) as client:
        done = until(client, ordered(client, [line(i) for i in range(3)]))
        assert [(e.code, e.line) for e in done.errors.data] == [("too_many_requests", 3)]
        with pytest.raises(openai.BadRequestError, match="1000 bytes"):
            ordered(client, [line(i, asked=body("x" * 1000)) for i in range(2)])


def test_a_line_is_no_larger_than_a_request(engine, rung_home):
    made = serve(engine, limits=Limits(max_body=1000))
    try:
        with client_of(made) as client:
            long = line(1, asked=body("x" * 2000))
            done = until(client, ordered(client, [line(0), long, long]))
            found = [(e.code, e.line) for e in done.errors.data]
            assert found == [("request_too_large", 2), ("request_too_large", 3)]
    finally:
        made.stop()


def test_cancelling_lets_lines_end_that_are_being_answered(served):
    with client_of(served) as client:
        batch = ordered(client, [line(i, asked=body(i, 60)) for i in range(40)])
        until(client, batch, "in_progress")
        with pytest.raises(openai.ConflictError, match="in use"):
            client.files.delete(batch.input_file_id)
        assert client.batches.cancel(batch.id).status == "cancelling"
        done = until(client, batch)
        assert done.status == "cancelled" and done.cancelling_at <= done.cancelled_at
        counts = done.request_counts
        assert counts.total == 40 and counts.completed + counts.failed == 40 and counts.failed
        errors = told(client, done.error_file_id)
        assert {one["error"]["code"] for one in errors.values()} == {"batch_cancelled"}
        output = told(client, done.output_file_id) if done.output_file_id else {}
        assert len(output) == counts.completed and not set(output) & set(errors)
        assert all(one["response"]["status_code"] == 200 for one in output.values())
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(batch.id)
        assert client.files.delete(batch.input_file_id).deleted


def half_done(client, count=12):
    """A batch with some of its lines answered, and its journal."""
    batch = ordered(client, [line(i, asked=body(i, 24)) for i in range(count)])
    path, end = journal(batch.id), time.monotonic() + 30
    while not path.exists() or path.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < end
        time.sleep(0.005)
    return batch, path


@pytest.mark.parametrize("ends", ["stopped", "killed"])
def test_a_batch_goes_on_with_the_next_server(engine, rung_home, monkeypatch, ends):
    """Finished lines are not asked again, a line that was cut short is."""
    first = serve(engine)
    with client_of(first) as client:
        batch, path = half_done(client)
        if ends == "killed":
            one = first.app.state.service.background[-1]
            one._loop.call_soon_threadsafe(one.abort)
            with Store.open() as store:
                assert store.batches.get(batch.id).claim == one.claim
    first.stop()
    before = path.read_bytes()
    if ends == "killed":
        with path.open("ab") as out:
            out.write(b'{"id": "batch_req_1", "custom_id": "row-')
        monkeypatch.setattr("psutil.pid_exists", lambda pid: False)
    second = serve(engine)
    try:
        with client_of(second) as client:
            done = until(client, batch)
            assert done.status == "completed" and done.request_counts.completed == 12
            output = client.files.content(done.output_file_id).content
            assert 3 <= before.count(b"\n") < 12 and output.startswith(before)
            assert len(told(client, done.output_file_id)) == 12
    finally:
        second.stop()


def test_two_servers_on_one_store_answer_each_line_once(engine, rung_home):
    servers = [serve(engine), serve(engine)]
    try:
        with client_of(servers[0]) as client, Store.open() as store:
            made = [ordered(client, [line(i) for i in range(6)]) for _ in range(4)]
            holder = servers[0].app.state.service.background[-1].claim
            assert not any(store.batches.claim(b.id, "x/1/y") for b in store.batches.working("")
                           if b.claim == holder)  # fmt: skip
            for batch in made:
                done = until(client, batch)
                assert done.request_counts.completed == 6
                assert len(told(client, done.output_file_id)) == 6
        asked = sum(
            metric.value
            for one in servers
            for metric in one.app.state.service.metrics._requests.collect()[0].samples
            if metric.name == "rung_requests_total" and metric.labels["route"] == CHAT
        )
        assert asked == 24
    finally:
        for one in servers:
            one.stop()


def keyed(served, **keys):
    """Clients of fresh keys by name."""
    with Store.open() as store:
        secrets = {name: store.keys.add(name, **settings)[1] for name, settings in keys.items()}
    served.app.state.service.access.refresh()
    return {name: client_of(served, secret) for name, secret in secrets.items()}


def test_a_batch_belongs_to_its_key_and_counts_for_it(served):
    own = {"scopes": ["ask", "train"]}
    clients = keyed(served, ann=own, ben=own, boss={}, asks={"scopes": ["ask"]})
    ann, ben = clients["ann"], clients["ben"]
    batch = ordered(ann, [line(i) for i in range(3)])
    done = until(ann, batch)
    for client in (ben, clients["asks"]):
        assert client.batches.list().data == []
        for call in (client.batches.retrieve, client.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                call(batch.id)
        with pytest.raises(openai.BadRequestError, match="no file"):
            client.batches.create(
                input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"
            )
    with pytest.raises(openai.NotFoundError):
        ben.files.content(done.output_file_id)
    assert clients["boss"].batches.retrieve(batch.id).status == "completed"
    assert told(clients["boss"], done.output_file_id)
    served.app.state.service.access.refresh()
    with Store.open() as store:
        used = {key.name: key.used for key in store.keys.list()}
    assert used == {"ann": done.usage.total_tokens, "ben": 0, "boss": 0, "asks": 0}


def test_a_quota_that_is_used_up_fails_the_lines_that_are_left(served):
    poor = keyed(served, poor={"scopes": ["ask", "train"], "quota": 200})["poor"]
    done = until(poor, ordered(poor, [line(i) for i in range(12)]))
    assert done.status == "completed" and done.request_counts.completed > 0
    errors = told(poor, done.error_file_id)
    assert len(errors) == done.request_counts.failed == 12 - done.request_counts.completed > 0
    for one in errors.values():
        assert one["response"]["status_code"] == 429
        assert one["response"]["body"]["error"]["code"] == "insufficient_quota"
    assert done.usage.total_tokens <= 200


def test_a_rate_is_waited_for(served):
    slow = keyed(served, slow={"scopes": ["ask", "train"], "requests_per_minute": 1200})["slow"]
    bucket = served.app.state.service.access
    (key,) = bucket._known
    batch = ordered(slow, [line(i) for i in range(4)])
    bucket._limits(key)[0][1].left = 0.0
    end = time.monotonic() + 30
    while True:  # polling is counted too
        try:
            done = until(slow, batch)
            break
        except openai.RateLimitError:
            assert time.monotonic() < end
            time.sleep(0.3)
    assert done.request_counts.completed == 4 and done.error_file_id is None


def test_a_revoked_key_ends_its_batch(served):
    clients = keyed(served, ann={"scopes": ["ask", "train"]}, boss={})
    batch, _ = half_done(clients["ann"], 200)
    with Store.open() as store:
        store.keys.revoke("ann")
    served.app.state.service.wake()
    done = until(clients["boss"], batch)
    assert done.status == "failed" and [e.code for e in done.errors.data] == ["invalid_api_key"]
    assert done.request_counts.completed >= 3 and done.request_counts.failed > 0
    with Store.open() as store:
        left = store.batches.get(batch.id)
        assert store.files.get(left.output_file).owner == left.owner is not None


def test_a_batch_expires(served):
    with client_of(served) as client:
        batch, _ = half_done(client, 200)
        from rung.store.schema import Batch

        with Store.open() as store, store._database.write() as connection:
            connection.execute(Batch.__table__.update().values(expires="2020-01-01T00:00:00.000000Z"))
        served.app.state.service.wake()
        done = until(client, batch)
        assert done.status == "expired" and done.expired_at and done.request_counts.completed >= 3
        errors = told(client, done.error_file_id)
        assert {one["error"]["code"] for one in errors.values()} == {"batch_expired"}
        assert len(errors) + len(told(client, done.output_file_id)) == 200


def test_lists_have_pages(served):
    with client_of(served) as client:
        made = [ordered(client, [line(0)]).id for _ in range(3)]
        first = client.batches.list(limit=2)
        assert [one.id for one in first.data] == made[:0:-1] and first.has_more
        assert [one.id for one in client.batches.list(limit=2)] == made[::-1]


def test_single_requests_go_first(served):
    """A request that comes while a batch runs is answered long before the batch is."""
    with client_of(served) as client:
        batch, _ = half_done(client, 200)
        for i in range(3):
            client.chat.completions.create(**body(i))
        assert client.batches.retrieve(batch.id).status == "in_progress"
        client.batches.cancel(batch.id)
        until(client, batch)


def test_nobody_asks_on_behalf_of_a_key_from_outside(engine, rung_home):
    made = serve(engine, settings=Settings(api_keys=("k1",)))
    try:
        for name in (ON_BEHALF, "rung-on-behalf", "rung_on_behalf"):
            answer = httpx.post(f"{made.url}{CHAT}?{ON_BEHALF}=1", json=body(), headers={name: "key-1"})
            assert answer.status_code == 401
        with client_of(made, "k1") as client:
            done = until(client, ordered(client, [line(0)]))
            assert done.request_counts.completed == 1
    finally:
        made.stop()


def test_a_claim_ends_with_its_process_or_its_lease(rung_home):
    assert not runner.ended(None)
    assert not runner.ended(f"{runner.platform.node()}/{os.getpid()}/x")
    assert not runner.ended("elsewhere/999999999/x")
    assert runner.ended(f"{runner.platform.node()}/999999999/x")
