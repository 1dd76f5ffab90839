"""FAULTS 25-32: hosts, clients that go, wait or never read, and an engine that ends."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time

import httpx
import openai
import pytest

from tests.engine.world import engine_of, tiny_llama
from tests.server.conftest import serve
from tests.server.test_client import idle
from tests.server.test_faults import CHAT, TEXT, chat, fault_of, still_serves, text  # noqa: F401


def test_a_strange_host_changes_nothing(http):
    for host in ("evil.example", "127.0.0.1:1", "a b", "[::1]", "x" * 1000):
        answer = http.get("/v1/models", headers={"Host": host})
        assert answer.status_code in (200, 400)
        assert "evil" not in answer.text


def test_two_hundred_impatient_clients(live, http):
    """Most give up after half a second; the one after them is answered in time."""
    ask = {"model": "base", "prompt": "x" * 50, "max_tokens": 300, "temperature": 2.0}

    def impatient():
        with contextlib.suppress(httpx.HTTPError):
            httpx.post(live.url + TEXT, json=ask, timeout=0.5)

    threads = [threading.Thread(target=impatient) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    began = time.monotonic()
    assert http.post(CHAT, json=chat()[1]).status_code == 200
    assert time.monotonic() - began < 5


def test_a_reader_that_does_not_read_holds_nothing_up(live, http):
    """What is sent waits in a buffer of bounded size, what is drawn no longer than the answers are."""
    for listening in live.server.servers[
        0
    ].sockets:  # connections inherit it: else the kernel holds all
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    body = b'{"model":"base","messages":[{"role":"user","content":"x"}],"stream":true,"n":16,'
    body += b'"max_tokens":400,"temperature":2.0}'
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        raw.connect(("127.0.0.1", live.port))
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        began = time.monotonic()
        assert http.post(CHAT, json=chat()[1]).status_code == 200
        assert time.monotonic() - began < 5
        end = time.monotonic() + 30
        while live.engine.scheduler.busy:  # it is answered to the end without being read
            assert time.monotonic() < end
            time.sleep(0.02)
        transports = [c.transport for c in live.server.server_state.connections if c.transport]
        assert 0 < max(t.get_write_buffer_size() for t in transports) < 1 << 18
        assert live.app.state.traffic.in_flight == 1
    while live.app.state.traffic.in_flight:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_reader_that_never_reads_is_given_up(monkeypatch):
    """Also when the server is told to end: it does not wait for that client's sake."""
    from rung.server.state import Limits

    monkeypatch.setattr("rung.server.serve.GRACE", 1)
    served = serve(engine_of(tiny_llama(), ()), limits=Limits(patience=0.5))
    for listening in served.server.servers[0].sockets:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    try:
        body = json.dumps({**chat()[1], "stream": True, "n": 16, "max_tokens": 400, "temperature": 2})
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            raw.connect(("127.0.0.1", served.port))
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            end = time.monotonic() + 20
            while not served.app.state.traffic.in_flight:
                time.sleep(0.01)
            while served.app.state.traffic.in_flight:
                assert time.monotonic() < end
                time.sleep(0.02)
            idle(served)
            served.stop()  # with the connection still open
    finally:
        served.stop()


def test_a_body_that_never_ends_is_given_up():
    from rung.server.state import Limits

    served = serve(engine_of(tiny_llama(), ()), limits=Limits(patience=0.3))
    try:
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as raw:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            raw.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            assert b" 408 " in raw.recv(4096)
    finally:
        served.stop()


def test_an_answer_that_takes_too_long_is_ended():
    from rung.server.state import Limits

    served = serve(engine_of(tiny_llama(), ()), limits=Limits(timeout=0.05))
    try:
        with httpx.Client(base_url=served.url, timeout=20) as http:
            slow = text(prompt=["x"] * 8, max_tokens=480, temperature=2.0)[1]
            assert fault_of(http.post(TEXT, json=slow), 408)["code"] == "timeout"
            idle(served)
    finally:
        served.stop()


def test_a_request_that_waits_too_long_is_told_when_to_come_back(monkeypatch):
    """One that is being answered goes on: only waiting is bounded, and so it is by default."""
    from rung.server.state import Limits

    assert Limits().max_wait
    served = serve(engine_of(tiny_llama(), (), max_batch=1), limits=Limits(max_wait=0.2))
    try:
        with httpx.Client(base_url=served.url, timeout=60) as http:
            long = text(prompt="x", max_tokens=480, temperature=2.0)[1] | {"stream": True}
            never = {str(i): -100 for i in served.engine.model("base").stop_ids}  # it must not end
            long["logit_bias"] = never
            body = {"model": "base", "prompt": "x", "max_tokens": 1}
            with http.stream("POST", TEXT, json=long) as stream:
                lines = stream.iter_lines()
                next(lines)
                step = served.engine.step
                monkeypatch.setattr(served.engine, "step", lambda: time.sleep(0.02) or step())
                answer = http.post(TEXT, json=body)
                monkeypatch.undo()
                assert fault_of(answer, 429)["type"] == "rate_limit_error"
                assert "0.2 s" in answer.json()["error"]["message"] and "retry-after" in answer.headers
                assert [line for line in lines if line][-1] == "data: [DONE]"
            assert http.post(TEXT, json=body).status_code == 200
    finally:
        served.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_ends_comes_back(monkeypatch):
    """The engine is a thread: where it ends, streams get an error event and it is started again."""
    engine = engine_of(tiny_llama(), ())
    served = serve(engine)
    decode, count = engine.scheduler.runner.decode, []

    def dies(*given, **named):
        count.append(1)
        if len(count) == 5:
            raise SystemExit
        return decode(*given, **named)

    monkeypatch.setattr(engine.scheduler.runner, "decode", dies)
    try:
        with httpx.Client(base_url=served.url, timeout=20) as http:
            lines = http.post(CHAT, json=chat(stream=True, max_tokens=50)[1]).text.split("\n\n")
            assert '"type":"server_error"' in [line for line in lines if line][-1]
            seen, end = set(), time.monotonic() + 10
            while 200 not in seen:
                seen.add(http.post(CHAT, json=chat()[1]).status_code)
                assert time.monotonic() < end
            assert seen <= {200, 503} and http.get("/ready").status_code == 200
    finally:
        served.stop()


def test_a_second_signal_aborts():
    served = serve(engine_of(tiny_llama(), ()))
    slow = {"model": "base", "prompt": ["x"] * 4, "max_tokens": 500, "temperature": 2.0}
    failed = []

    def ask():
        try:
            failed.append(httpx.post(served.url + TEXT, json=slow, timeout=30).status_code)
        except httpx.HTTPError:
            failed.append(0)

    asking = threading.Thread(target=ask)
    asking.start()
    while not served.engine.scheduler.running:
        time.sleep(0.002)
    served.server.handle_exit(15, None)
    served.server.handle_exit(15, None)
    asking.join(15)
    assert failed and failed[0] in (0, 200, 499, 500, 503)  # whatever an aborted answer looks like
    end = time.monotonic() + 10
    while served.engine.alive:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_tls(tmp_path, rung_home):
    """HTTPS with a certificate of one's own; a broken one is told before anything is served."""
    from rung.errors import ConfigError
    from rung.server.app import create_app
    from rung.server.serve import Server

    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key,
         "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    served = serve(engine_of(tiny_llama(), ()), tls=(str(certificate), str(key)))
    try:
        import ssl

        trust = ssl.create_default_context(cafile=str(certificate))
        answer = httpx.get(f"https://127.0.0.1:{served.port}/health", verify=trust)
        assert answer.status_code == 200
    finally:
        served.stop()
    key.write_text("nonsense")
    with pytest.raises(ConfigError, match="--tls-key"):
        Server(create_app(engine_of(tiny_llama(), ())), None, (str(certificate), str(key)))


def test_the_official_client_tries_a_full_queue_again():
    served = serve(engine_of(tiny_llama(), (), max_batch=1, max_waiting=1))
    try:
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=8) as client:
            done = []

            def ask():
                done.append(client.completions.create(model="base", prompt="x", max_tokens=40))

            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(done) == 3
    finally:
        served.stop()
