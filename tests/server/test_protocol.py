"""Below the API: latency of a kept connection, headers that never end, and what is no HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import statistics
import time
from contextlib import closing

import httpx
import pytest

from tests.engine.world import engine_of, tiny_llama
from tests.server.conftest import serve


@pytest.fixture(scope="module")
def hasty():
    """A server that waits half a second for headers."""
    from rung.server.state import Limits

    served = serve(engine_of(tiny_llama(), ()), limits=Limits(patience=0.5))
    yield served
    served.stop()


def exchange(port: int, sent: bytes, seconds: float = 10.0) -> bytes:
    """What comes back, to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as raw:
        raw.sendall(sent)
        return to_the_end(raw)


def to_the_end(raw: socket.socket) -> bytes:
    found = b""
    while piece := raw.recv(65536):
        found += piece
    return found


def error_in(answer: bytes) -> tuple[int, dict]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]


def test_an_answer_over_a_kept_connection_does_not_wait_for_an_ack(live):
    """Nagle's algorithm and delayed ACKs together cost 40 ms a request."""
    with httpx.Client(base_url=live.url) as http:
        seconds = []
        for _ in range(60):
            began = time.perf_counter()
            assert http.get("/health").status_code == 200
            seconds.append(time.perf_counter() - began)
    assert statistics.quantiles(seconds, n=4)[0] < 0.02


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"\x16\x03\x01\x00\r\n\r\n"]
)
def test_what_is_no_http_gets_an_error_of_the_api(live, sent):
    status, error = error_in(exchange(live.port, sent))
    assert status == 400 and error["type"] == "invalid_request_error"


def test_headers_that_are_too_large_are_answered(live):
    """The client sends on meanwhile: closing at once would reset the connection and lose the answer."""
    sent = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * (10 << 20) + b"\r\n\r\n"
    status, error = error_in(exchange(live.port, sent))
    assert status == 431 and "65536 bytes" in error["message"]


def test_headers_that_never_end_are_given_up(hasty):
    """Also of a client that sends a byte now and then, and after an answer on a kept connection."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=10) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        raw.settimeout(0.2)
        found = b""
        while not found and time.monotonic() - began < 8:
            try:
                found = raw.recv(65536)
            except TimeoutError:
                raw.sendall(b"X-A: b\r\n")
        raw.settimeout(10)
        found += to_the_end(raw)
    assert error_in(found)[0] == 408 and 0.4 < time.monotonic() - began < 5
    began = time.monotonic()
    assert exchange(hasty.port, b"") == b"" and time.monotonic() - began < 5
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=10) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")
        raw.sendall(b"GET /health HT")
        assert b" 408 " in to_the_end(raw)


def test_an_idle_connection_outlives_what_clients_keep(live):
    """httpx uses one for 5 s: a server that closes it just then loses the request that crosses."""
    with closing(http.client.HTTPConnection("127.0.0.1", live.port)) as kept:
        for _ in range(2):
            kept.request("GET", "/health")
            assert b"ok" in kept.getresponse().read()
            kept.sock.settimeout(5.5)
            with pytest.raises(TimeoutError):  # the end of a connection would come as no bytes
                kept.sock.recv(1)


def test_a_slow_answer_is_no_slow_request(hasty):
    body = json.dumps({"model": "base", "prompt": "x", "max_tokens": 200, "temperature": 2.0, "n": 8})
    with httpx.Client(base_url=hasty.url, timeout=60) as http:
        for _ in range(2):  # the second on the same connection
            head = {"Content-Type": "application/json"}
            assert http.post("/v1/completions", content=body, headers=head).status_code == 200


def test_a_browser_may_ask_only_where_the_owner_says_so(live):
    """Off by default; with --origin the preflight needs no key, and the request does."""
    from rung.server.state import Settings

    page = {"Origin": "https://app.example"}
    ask = {
        **page,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    with httpx.Client(base_url=live.url) as http:
        for answer in (http.options("/v1/models", headers=ask), http.get("/v1/models", headers=page)):
            assert not [name for name in answer.headers if name.startswith("access-control")]
    settings = Settings(api_keys=("key",), origins=("https://app.example",))
    served = serve(engine_of(tiny_llama(), ()), settings=settings)
    try:
        with httpx.Client(base_url=served.url) as http:
            allowed = http.options("/v1/chat/completions", headers=ask)
            assert allowed.status_code == 200
            assert allowed.headers["access-control-allow-origin"] == "https://app.example"
            assert (
                http.options(
                    "/v1/models", headers={**ask, "Origin": "https://evil.example"}
                ).status_code
                == 400
            )
            assert http.get("/v1/models", headers=page).status_code == 401
            answer = http.get("/v1/models", headers={**page, "Authorization": "Bearer key"})
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
    finally:
        served.stop()


def test_a_slash_behind_an_address_changes_nothing(live):
    with httpx.Client(base_url=live.url) as http:
        assert http.get("/v1/models/").status_code == 200
        body = {"model": "base", "prompt": "x", "max_tokens": 1}
        assert http.post("/v1/completions/", json=body).status_code == 200


def test_two_lengths_of_one_body_are_refused(live):
    """Who stands in front may believe the other one: what follows would be another's request."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    sent = head + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    answer = exchange(live.port, sent + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    status, error = error_in(answer)
    assert status == 400 and "Transfer-Encoding" in error["message"] and answer.count(b"HTTP/1.1") == 1
