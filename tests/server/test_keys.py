"""Keys of the store: scopes, rates, quotas, and what is logged and counted."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from rung.cli import run
from rung.errors import StoreError
from rung.server.access import Access
from rung.server.errors import ApiError
from rung.store import Store
from tests.engine.world import engine_of, tiny_llama
from tests.server.conftest import serve
from tests.server.shop import client_of

HELLO = [{"role": "user", "content": "Hello there"}]


@pytest.fixture
def store(rung_home):
    with Store.open() as opened:
        yield opened


@pytest.fixture
def served(store):
    from rung.server.state import Settings

    made = serve(engine_of(tiny_llama(), ("lora",)), settings=Settings(log=True))
    yield made
    made.stop()


def ask(client, **settings):
    return client.chat.completions.create(model="base", messages=HELLO, max_tokens=3, **settings)


def soon(check, seconds=5.0):
    """Wait until something holds: servers look for new keys every two seconds."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_keys_come_into_force_and_go(store, served):
    with client_of(served) as client:
        assert ask(client)  # no keys yet: everybody is let in
    _, secret = store.keys.add("me")
    url = f"{served.url}/v1/models"
    soon(lambda: httpx.get(url).status_code == 401)
    assert httpx.get(f"{served.url}/health").status_code == 200
    with client_of(served, secret) as client:
        assert ask(client)
    with client_of(served, secret[:-1]) as client, pytest.raises(openai.AuthenticationError):
        client.models.list()
    store.keys.add("other")
    store.keys.revoke("me")
    soon(lambda: httpx.get(url, headers={"Authorization": f"Bearer {secret}"}).status_code == 401)


def test_revoking_the_last_key_lets_nobody_in(store, served):
    _, secret = store.keys.add("me")
    url = f"{served.url}/v1/models"
    known = {"Authorization": f"Bearer {secret}"}
    soon(lambda: httpx.get(url).status_code == 401)
    assert httpx.get(url, headers=known).status_code == 200
    store.keys.revoke("me")
    soon(lambda: httpx.get(url, headers=known).status_code == 401)
    assert httpx.get(url).status_code == 401
    assert run(["keys", "forget"]) == 0 and not store.keys.list(revoked=True)
    soon(lambda: httpx.get(url).status_code == 200)  # as its owner has said
    _, other = store.keys.add("other")
    soon(lambda: httpx.get(url, headers={"Authorization": f"Bearer {other}"}).status_code == 200)


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_has_used_what_was_drawn(store, served, stream):
    _, secret = store.keys.add("hasty")
    soon(lambda: httpx.get(f"{served.url}/v1/models").status_code == 401)
    headers, known = {"Authorization": f"Bearer {secret}"}, lambda: store.keys.list()[0].used
    body = {
        "model": "base", "prompt": "x" * 100, "max_tokens": 400, "n": 4, "temperature": 2.0, "seed": 2,
        "stream": stream,
    }  # fmt: skip
    with contextlib.suppress(httpx.TimeoutException), httpx.Client(headers=headers) as client:
        sent = client.build_request("POST", f"{served.url}/v1/completions", json=body, timeout=0.1)
        answer = client.send(sent, stream=True)
        assert stream  # a whole answer takes longer
        answer.close()
    soon(lambda: known() >= 100)


def test_a_scope_opens_its_part_alone(store, served):
    _, asks = store.keys.add("asks", scopes=["ask"])
    _, trains = store.keys.add("trains", scopes=["train"])
    soon(lambda: httpx.get(f"{served.url}/v1/models").status_code == 401)
    with client_of(served, asks) as client:
        assert ask(client) and client.models.list()
        for call in (
            client.files.list, client.fine_tuning.jobs.list, lambda: client.models.delete("lora")
        ):  # fmt: skip
            with pytest.raises(openai.PermissionDeniedError):
                call()
    with client_of(served, trains) as client:
        assert client.files.list() is not None
        with pytest.raises(openai.PermissionDeniedError, match="scope 'ask'"):
            ask(client)


def walked(routes):
    """(verb, path, scope) of every route that declares one."""
    for declared in routes:
        for route in declared.routes:
            for verb in sorted(route.methods - {"HEAD"}):
                yield verb, route.path, declared.scope_of(route)


def test_every_route_wants_its_scope_of_a_key(store, served):
    """FAULTS 25, for keys that open a part: each route of the router, with every scope but its own."""
    from rung.server import routes
    from rung.store.serving import SCOPES

    keys = {}
    for word in SCOPES:
        _, secret = store.keys.add(f"all-but-{word}", scopes=[s for s in SCOPES if s != word])
        keys[word] = {"Authorization": f"Bearer {secret}"}
    soon(lambda: httpx.get(f"{served.url}/v1/models").status_code == 401)
    ways = list(walked(routes.registry.all()))
    assert {scope for _, _, scope in ways} == {"open", "any", "ask", "train", "metrics", "admin"}
    for verb, path, scope in ways:
        for word, headers in keys.items():
            answer = httpx.request(verb, served.url + path, headers=headers)
            # `admin` opens what only reads, too.
            refused = word == scope and scope != "metrics"
            assert (answer.status_code == 403) == refused, (verb, path, word)
            if refused:
                said = answer.json()["error"]
                assert "missing_scope" in said.values() or said["type"] == "permission_error"
    _, neither = store.keys.add("neither", scopes=["ask"])
    headers = {"Authorization": f"Bearer {neither}"}
    served.app.state.service.access.refresh()
    assert httpx.get(f"{served.url}/metrics", headers=headers).status_code == 403
    body = {"model": "base", "messages": HELLO, "max_tokens": 1, "trace": True}
    chat = f"{served.url}/v1/chat/completions"
    assert httpx.post(chat, json=body, headers=headers).status_code == 403
    assert httpx.post(chat, json=body | {"trace": False}, headers=headers).status_code == 200
    assert httpx.post(chat, json=body, headers=keys["metrics"]).status_code == 200


def test_a_route_that_declares_no_scope_needs_admin(store):
    """Of a file of routes, of another package, or put into the application by hand."""
    from rung.server.routing import RequiredScopes, Routes

    forgotten = Routes("/v1/forgotten")
    forgotten.get("")(lambda: "seen")
    made = serve(engine_of(tiny_llama(), ()))
    try:
        made.app.include_router(forgotten)
        made.app.add_api_route("/v1/bare", lambda: "seen")
        way = {"type": "http", "method": "GET", "path": "/v1/forgotten"}
        assert RequiredScopes([forgotten], []).of(way) == "admin"
        _, weak = store.keys.add("weak", scopes=["ask", "train", "trace", "metrics"])
        _, strong = store.keys.add("strong", scopes=["admin"])
        made.app.state.service.access.refresh()
        for path in ("/v1/forgotten", "/v1/bare"):
            for secret, status in ((weak, 403), (strong, 200)):
                headers = {"Authorization": f"Bearer {secret}"}
                assert httpx.get(made.url + path, headers=headers).status_code == status
    finally:
        made.stop()


def test_rates_and_quotas(store, served):
    _, slow = store.keys.add("slow", requests_per_minute=2)
    _, poor = store.keys.add("poor", quota=60)
    _, heavy = store.keys.add("heavy", tokens_per_minute=60)
    soon(lambda: httpx.get(f"{served.url}/v1/models").status_code == 401)
    with client_of(served, slow) as client:
        ask(client), ask(client)
        with pytest.raises(openai.RateLimitError) as fault:
            ask(client)
        assert fault.value.code == "rate_limit_exceeded"
        assert 0 < int(fault.value.response.headers["retry-after"]) <= 31
    for secret, code in ((poor, "insufficient_quota"), (heavy, "rate_limit_exceeded")):
        with client_of(served, secret) as client:
            used = ask(client).usage.total_tokens
            assert 30 < used < 60
            with pytest.raises(openai.RateLimitError) as fault:
                ask(client)
            assert fault.value.code == code
            again = fault.value.response.headers.get("x-should-retry")
            assert again == ("false" if code == "insufficient_quota" else None)
            # Who does not say how much is given what is left, or nothing where the prompt is too long.
            with pytest.raises(openai.RateLimitError):
                client.chat.completions.create(model="base", messages=HELLO)
            left = client.completions.create(model="base", prompt="Hi", temperature=2.0)
            assert left.usage.total_tokens <= 60 - used + 1
    with client_of(served, heavy) as client, pytest.raises(openai.RateLimitError) as fault:
        client.completions.create(model="base", prompt="Hi", max_tokens=100)
    assert fault.value.code == "request_exceeds_rate"
    assert fault.value.response.headers["x-should-retry"] == "false"
    served.app.state.service.access.refresh()
    assert {k.name: k.used for k in store.keys.list()}["poor"] <= 60


@pytest.mark.parametrize("limit", ["quota", "tokens_per_minute"])
def test_limits_hold_under_64_requests_at_once(store, served, limit):
    """What a request may use is held before it is computed: in flight, none is counted otherwise."""
    _, secret = store.keys.add("many", **{limit: 100})
    soon(lambda: httpx.get(f"{served.url}/v1/models").status_code == 401)
    headers = {"Authorization": f"Bearer {secret}"}
    body = {"model": "base", "prompt": "Hello", "max_tokens": 5, "temperature": 2.0, "seed": 1}

    def one(_):
        return httpx.post(f"{served.url}/v1/completions", json=body, headers=headers, timeout=60)

    began = time.monotonic()
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(one, range(64)))
    refilled = 0 if limit == "quota" else 100 * (time.monotonic() - began) / 60
    spent = sum(a.json()["usage"]["total_tokens"] for a in answers if a.status_code == 200)
    assert {a.status_code for a in answers} == {200, 429}
    each = answers[0].json().get("usage", {}).get("total_tokens", 10)
    assert 100 - 2 * each <= spent <= 100 + refilled, spent
    if limit == "quota":
        while (last := one(0)).status_code == 200:
            spent += last.json()["usage"]["total_tokens"]
        assert last.json()["error"]["code"] == "insufficient_quota" and spent <= 100
        access = served.app.state.service.access
        access.refresh()
        assert store.keys.list()[0].used == spent and not access._held


def test_streams_count_too(store, served):
    _, secret = store.keys.add("streams")
    soon(lambda: httpx.get(f"{served.url}/v1/models").status_code == 401)
    with client_of(served, secret) as client:
        chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    total = chunks[-1].usage.total_tokens

    def used():
        served.app.state.service.access.refresh()
        return store.keys.list()[0].used

    soon(lambda: used() == total)


def test_requests_are_logged_and_counted(served, caplog):
    with caplog.at_level(logging.INFO, "rung.requests"), client_of(served) as client:
        answer = ask(client)
        httpx.get(f"{served.url}/nothing")
        soon(lambda: len(caplog.records) >= 2)
    lines = [json.loads(r.getMessage()) for r in caplog.records if r.name == "rung.requests"]
    found = next(line for line in lines if line["path"] == "/v1/chat/completions")
    assert found["request_id"] == answer._request_id and found["status"] == 200
    assert found["prompt_tokens"] == answer.usage.prompt_tokens and found["completion_tokens"] > 0
    text = httpx.get(f"{served.url}/metrics").text
    assert 'rung_requests_total{method="POST",route="/v1/chat/completions",status="200"} 1.0' in text
    for i in range(5):  # anybody may send any word
        httpx.request(f"M{i}", f"{served.url}/v1/models")
    told = httpx.get(f"{served.url}/metrics").text
    assert 'method="other"' in told and 'method="M' not in told
    assert 'rung_tokens_total{kind="prompt",model="base"}' in text
    assert "rung_requests_running 0.0" in text and "rung_engine_alive 1.0" in text
    assert 'route="none"' in text and "/nothing" not in text


def test_the_verb(store, capsys):
    from rung import cli

    assert cli.run(["keys", "add", "bot", "--scope", "ask", "--quota", "5", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["key"].startswith("rung-") and made["scopes"] == "ask"
    assert cli.run(["keys", "list", "--json"]) == 0
    listed = capsys.readouterr().out
    assert json.loads(listed)[0]["quota"] == 5 and made["key"] not in listed
    assert cli.run(["keys", "list"]) == 0
    assert "bot\task" in capsys.readouterr().out
    assert cli.run(["keys", "revoke", "bot"]) == 0
    capsys.readouterr()
    for wrong in (["revoke", "bot"], ["add"], ["list", "x"], ["ad", "x"], ["add", "x", "--scope", "y"]):
        assert cli.run(["keys", *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_nobody_is_let_in_before_the_keys_were_read_once(store):
    _, secret = store.keys.add("me")
    tries = [StoreError("busy"), store.keys, StoreError("gone")]

    def keys():
        found = tries.pop(0)
        if isinstance(found, StoreError):
            raise found
        return found

    access = Access([], keys)
    for _ in range(2):  # before the first try, and after one that failed
        with pytest.raises(ApiError) as refused:
            access.find("")
        assert refused.value.http_status == 503 and access.stale
        if len(tries) == 3:
            access.refresh()
    access.refresh()
    for _ in range(2):  # what was read stays where it cannot be read again
        assert access.find(f"Bearer {secret}").name == "me"
        with pytest.raises(ApiError) as refused:
            access.find("")
        assert refused.value.http_status == 401
        if tries:
            access.refresh()
