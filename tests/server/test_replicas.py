"""Several replicas behind one address: which of them is asked, and what a client sees of one's end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.testclient import TestClient

import rung
from rung.cli import run
from rung.errors import ConfigError
from rung.server.replicas import children, hosted
from rung.server.replicas.children import REPLICA, Child, command
from rung.server.replicas.hosted import HostedProcess
from rung.server.replicas.metrics import summed
from rung.server.replicas.policy import BOUND, Balanced, Random, Warm, blocks
from rung.server.replicas.router import Router, application

# --- the policy -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.booleans()), max_size=60),
       st.integers(1, 4))  # fmt: skip
def test_nobody_has_more_than_the_bounded_share_and_counts_are_kept(asked, count):
    policy, sent = Warm(count, block=4), []
    for model, length, ends in asked:
        place = policy.choose(model, model * 4 * length)
        assert place is not None
        sent.append(place)
        loads = [r.in_flight for r in policy.replicas]
        assert max(loads) <= -(-BOUND * sum(loads) // count)
        assert loads == [sent.count(p) for p in range(count)]
        if ends:
            policy.done(sent.pop(0))


def test_a_text_goes_where_its_beginning_is_known():
    policy = Warm(3, block=4)
    first = policy.choose("a", "systemquestion1")
    policy.done(first)
    for other in ("b", "c"):
        policy.done(policy.choose(other, "something else"))
    again = policy.choose("a", "systemquestion2")
    policy.done(again)
    assert again == first
    assert policy.choose("a", "unknown text") == first, "its adapter is warm there"


def test_the_same_text_of_another_model_is_another_text():
    assert not set(blocks("a", "x" * 256)) & set(blocks("b", "x" * 256))
    assert blocks("a", "x" * 128) == blocks("a", "x" * 150)[:2]


def test_adapters_spread_over_replicas():
    policy = Warm(2)
    for name in "abcdefgh":
        policy.done(policy.choose(name, "hello"))
    assert sorted(len(r.models) for r in policy.replicas) == [4, 4]


@pytest.mark.parametrize("policy", [Warm(3), Balanced(3), Random(3)])
def test_nobody_is_sent_to_a_replica_that_is_gone(policy):
    policy.lost(1)
    places = {policy.choose("a", "text") for _ in range(20)}
    assert places == {0, 2}
    assert policy.choose("a", "text", frozenset({0, 2})) is None
    policy.back(1)
    assert policy.choose("a", "text", frozenset({0, 2})) == 1


def test_figures_are_added_up():
    one = '# HELP a Things.\n# TYPE a counter\na{x="1"} 2.0\nrung_engine_alive 1.0\nrung_models 3.0\n'
    two = '# HELP a Things.\n# TYPE a counter\na{x="1"} 5.0\na{x="2"} 1.0\nrung_engine_alive 0.0\nrung_models 3.0\n'  # noqa: E501
    lines = summed([one, two]).splitlines()
    assert lines.count("# TYPE a counter") == 1
    assert {'a{x="1"} 7.0', 'a{x="2"} 1.0', "rung_engine_alive 0.0", "rung_models 3.0"} <= set(lines)


def test_a_replica_gets_what_the_server_was_given():
    given = {"base": "x", "api_key": ["k1", "k2"], "page": False, "replicas": 3, "port": 80, "jobs": 2}
    first, second = (command(["coach"], given, place) for place in (0, 1))
    assert first[:2] == ["serve", "coach"] and "--base=x" in first and "--no-page" in first
    assert first.count("--api-key=k1") == first.count("--api-key=k2") == 1
    assert "--port=0" in first and "--port=80" not in first and "--jobs=2" in first
    assert "--jobs=0" in second and not [w for w in first if "replicas" in w]


# --- the router, over replicas that are played ------------------------------------------------------


class Played(httpx.AsyncBaseTransport):
    """Replicas at http://0, http://1 and so on.

    Args:
        dead: places that do not answer. cut: that end within their answer.

    Attributes:
        served: models by place; of another one it answers 404. None: any model.
    """

    def __init__(self, dead: set[str], cut: set[str]):
        self.dead, self.cut, self.asked = dead, cut, []
        self.methods: list[tuple[str, str, str]] = []
        self.largest = 0  # bytes of a part of a body
        self.served: dict[str, set[str]] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        place = request.url.host
        self.asked.append(place)
        self.methods.append((place, request.method, request.url.path))
        if place in self.dead:
            raise httpx.ConnectError("refused")
        parts = [part async for part in request.stream]  # type: ignore[union-attr]
        self.largest = max([self.largest, *map(len, parts)])
        request = httpx.Request(request.method, request.url, content=b"".join(parts))
        model = json.loads(request.content)["model"] if self.served and request.content else None
        if self.served and model not in self.served[place]:
            return httpx.Response(404, stream=_Parts(False, place, UNKNOWN))
        streamed = b'"stream":true' in request.content.replace(b" ", b"")
        kind = "text/event-stream" if streamed else "application/json"
        parts = _Parts(place in self.cut, place)
        return httpx.Response(200, headers={"content-type": kind}, stream=parts)


UNKNOWN = b'{"error": {"message": "no such model", "code": "model_not_found"}}'


class _Parts(httpx.AsyncByteStream):
    def __init__(self, cut: bool, place: str, whole: bytes = b""):
        self.cut, self.place, self.whole = cut, place, whole

    async def __aiter__(self):
        if self.whole:
            yield self.whole
            return
        yield b'data: {"from": "' + self.place.encode()
        if self.cut:
            raise httpx.ReadError("reset")
        yield b'"}\n\n'


def routed(dead: Any = (), cut: Any = ()) -> tuple[Router, Played, TestClient]:
    router, played = Router(2, 1 << 20), Played(set(dead), set(cut))
    router.client = httpx.AsyncClient(transport=played)
    for place in range(2):
        router.came(place, f"http://{place}")
    return router, played, TestClient(application(router))


def ask(client: TestClient, **more: Any) -> httpx.Response:
    said = {"model": "coach", "messages": [{"role": "user", "content": "hello"}], **more}
    return client.post("/v1/chat/completions", json=said)


def test_a_request_to_a_replica_that_is_gone_is_asked_of_another():
    for fault in ({"dead": {"0"}}, {"cut": {"0"}}):
        router, played, client = routed(**fault)
        answered = ask(client)
        assert answered.status_code == 200 and '"1"' in answered.text
        assert played.asked == ["0", "1"]
        assert [r.in_flight for r in router.policy.replicas] == [0, 0]


def test_a_stream_that_has_begun_ends_with_an_error_event():
    router, _, client = routed(cut={"0"})
    answered = ask(client, stream=True)
    last = answered.text.strip().splitlines()[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "replica_lost"
    assert [r.in_flight for r in router.policy.replicas] == [0, 0]


def test_a_model_that_a_job_made_is_asked_where_it_is_served():
    """It answered 404 for good where the base had been asked before: the other one was emptier."""
    router, played, client = routed()
    played.served = {"0": {"base", "ft:new"}, "1": {"base"}}
    assert ask(client, model="base").status_code == 200
    assert [ask(client, model="ft:new").status_code for _ in range(8)] == [200] * 8
    assert played.asked[-7:] == ["0"] * 7  # the other one is not asked again
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: ask(client, model="ft:new").status_code, range(8)))
    assert found == [200] * 8
    unknown = ask(client, model="absent")
    assert unknown.status_code == 404 and unknown.json()["error"]["code"] == "model_not_found"
    assert not any("absent" in r.lacking for r in router.policy.replicas)
    assert [r.in_flight for r in router.policy.replicas] == [0, 0]


def test_everything_but_questions_goes_to_the_first_replica():
    _, played, client = routed()
    for _ in range(3):
        assert client.get("/v1/models").status_code == 200
        assert client.post("/v1/files", content=b"x").status_code == 200
    assert set(played.asked) == {"0"}


def test_a_model_that_is_deleted_is_deleted_on_every_replica():
    _, played, client = routed()
    assert client.delete("/v1/models/coach").status_code == 200
    assert played.methods == [(place, "DELETE", "/v1/models/coach") for place in "01"]
    played.served, played.methods = {"0": set(), "1": {"coach"}}, []
    refused = client.request("DELETE", "/v1/models/coach", json={"model": "coach"})
    assert refused.status_code == 404 and [m[0] for m in played.methods] == ["0"]
    played.served = None
    assert client.delete("/v1/files/file-1").status_code == 200 and played.asked[-1] == "0"


def test_an_upload_is_passed_on_in_parts():
    router, played, _ = routed()
    router.max_body, router.max_file = 100, 10_000
    part = {"type": "http.request", "body": b"x" * 1000, "more_body": True}
    last = {"type": "http.request", "body": b"", "more_body": False}
    assert sent(router, *[part] * 8, last, path="/v1/files") == 200
    assert played.largest == 1000 and played.asked == ["0"]
    router.max_file = 3000
    assert sent(router, *[part] * 8, last, path="/v1/files") == 413
    router.patience = 0.05
    assert sent(router, part, path="/v1/files") == 408
    assert sent(router, part, {"type": "http.disconnect"}, path="/v1/files") == 499
    assert [r.in_flight for r in router.policy.replicas] == [0, 0]


def test_what_may_have_changed_something_is_not_asked_twice():
    _, played, client = routed(cut={"0"})
    answered = client.post("/v1/fine_tuning/jobs", content=b"{}")
    assert answered.status_code == 502 and played.asked == ["0"]


def test_without_replicas_it_says_so_and_bodies_are_bounded(monkeypatch):
    monkeypatch.setattr("rung.server.replicas.router.PATIENCE_SECONDS", 0.0)
    router, _, client = routed()
    assert client.post("/v1/files", content=b"x" * ((1 << 20) + 1)).status_code == 413
    assert client.get("/health").status_code == 200
    for place in range(2):
        router.went(place)
    assert client.get("/health").status_code == 503
    answered = ask(client)
    assert answered.status_code == 503 and "no replica" in answered.json()["error"]["message"]
    assert answered.json()["error"].keys() == {"message", "type", "param", "code"}
    assert answered.json()["error"]["code"] == "unavailable" and answered.headers["retry-after"]
    other = client.post("/v1/messages", json={"model": "coach", "messages": []})
    assert other.status_code == 503 and other.json()["type"] == "error"


def test_a_question_is_no_larger_than_one_and_an_upload_than_a_file():
    router, played, _ = routed()
    router.max_body, router.max_file = 100, 1000
    client = TestClient(application(router))
    refused = client.post("/v1/chat/completions", content=b"x" * 200)
    assert refused.status_code == 413 and refused.json()["error"]["code"] == "request_too_large"
    assert client.post("/v1/files", content=b"x" * 200).status_code == 200
    assert client.post("/v1/files", content=b"x" * 1001).status_code == 413


def sent(router: Router, *messages: dict[str, Any], path: str = "/v1/chat/completions") -> int:
    """The status of what a client gets whose messages these are, and who then waits."""
    left = list(messages)

    async def receive() -> Any:
        return left.pop(0) if left else await asyncio.sleep(60)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}
    return asyncio.run(router.answer(Request(scope, receive))).status_code


def test_bodies_that_break_off_or_do_not_come_are_no_fault():
    router, played, _ = routed()
    router.patience = 0.05
    begun = {"type": "http.request", "body": b'{"mo', "more_body": True}
    assert sent(router, begun) == 408
    assert sent(router, begun, {"type": "http.disconnect"}) == 499
    assert not played.asked


def test_who_goes_away_is_no_longer_answered():
    """A question is given up; what may change something comes to its end."""
    router, played, _ = routed()
    ended = []

    async def slow(request: httpx.Request) -> httpx.Response:
        try:
            await asyncio.sleep(0.3)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        ended.append("finished")
        return httpx.Response(200, stream=_Parts(False, "0"))

    played.handle_async_request = slow  # type: ignore[method-assign]
    whole = {"type": "http.request", "body": b'{"model": "coach"}', "more_body": False}
    gone = {"type": "http.disconnect"}
    assert sent(router, whole, gone) == 499 and ended == ["cancelled"]
    assert sent(router, whole, gone, path="/v1/fine_tuning/jobs") == 200
    assert ended == ["cancelled", "finished"]
    assert [r.in_flight for r in router.policy.replicas] == [0, 0]


# --- real replicas ----------------------------------------------------------------------------------

SCRATCH = "scratch:layers=2,width=32,heads=2,vocab=300,context=256"
CLIENTS, ADAPTERS = 32, 8


@pytest.fixture
def coached(tmp_path: Path, rung_home: Path) -> list[str]:
    """Adapters of a tiny base, made through the command line."""
    rows = [{"prompt": f"say {w}", "completion": w * 3} for w in ("ha", "ho", "hi", "hu") * 12]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    names = [f"coach{i}" for i in range(ADAPTERS)]
    for i, name in enumerate(names):
        rung.tune(name, data=str(data), base=SCRATCH, method="lora", steps=3, seed=i, lr=0.05,
                  device="cpu", dtype="float32")  # fmt: skip
    return names


class Serving:
    """`rung serve` in a process of its own."""

    def __init__(self, names: list[str], *flags: str, quiet: bool = False):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rung", "serve", *names, "--port=0", "--device=cpu", "--no-page",
             *flags],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE if quiet else None, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        found = next((line for line in self.process.stdout if "serving at" in line), "")
        self.address = found.split()[2].removesuffix("/v1")

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0

    def ask(self, name: str, i: int, stream: bool = False) -> str | None:
        """An answer; None where the stream ended with an error event."""
        said = {"model": name, "messages": [{"role": "user", "content": f"say ho {i % 5}"}], "seed": i,
                "max_tokens": 24, "temperature": 0.8, "stream": stream}  # fmt: skip
        answered = httpx.post(f"{self.address}/v1/chat/completions", json=said, timeout=120)
        assert answered.status_code == 200, answered.text
        if not stream:
            return answered.json()["choices"][0]["message"]["content"]
        lines = [
            line.removeprefix("data: ") for line in answered.text.splitlines() if line[:5] == "data:"
        ]
        if "error" in json.loads(lines[-1] if lines[-1] != "[DONE]" else "{}"):
            return None
        parts = [json.loads(line)["choices"] for line in lines if line != "[DONE]"]
        return "".join(c[0]["delta"].get("content") or "" for c in parts if c)

    def ask_all(self, count: int, names: list[str], stream: bool = False) -> list[str | None]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            every = [pool.submit(self.ask, names[i % len(names)], i, stream) for i in range(count)]
            return [one.result() for one in every]


@pytest.mark.slow
@pytest.mark.faults
def test_two_signals_end_all_of_it_without_a_traceback(rung_home):
    serving = Serving([SCRATCH], "--replicas=2", quiet=True)
    replicas = psutil.Process(serving.process.pid).children()
    for _ in range(2):
        serving.process.send_signal(signal.SIGINT)
    _, told = serving.process.communicate(timeout=60)
    assert "Traceback" not in told
    _, alive = psutil.wait_procs(replicas, timeout=30)
    assert not alive


def replicas_of(server: psutil.Process) -> list[psutil.Process]:
    """The processes that answer, wherever they stand below or beside a server on this machine."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if REPLICA in one.environ() and "serve" in one.cmdline() and one != server:
                found.append(one)
    return found


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("where", ["here", "a Ray cluster"])
def test_two_replicas_answer_as_one_and_the_end_of_one_is_no_wrong_answer(coached, where):
    count, flags = 96, ["--replicas=2"]
    if where != "here":
        pytest.importorskip("ray", reason="the extra 'cluster' is not installed")
        flags.append("--cluster=local")
    with Serving(coached) as one:
        wanted = one.ask_all(count, coached)
    with Serving(coached, *flags) as two:
        assert two.ask_all(count, coached) == wanted
        figures = httpx.get(f"{two.address}/metrics").text
        assert "rung_replicas 2" in figures
        replicas = replicas_of(psutil.Process(two.process.pid))
        assert len(replicas) == 2
        for stream in (False, True):
            killer = threading.Timer(0.3, replicas[int(stream)].kill)
            killer.start()
            found = two.ask_all(count, coached, stream)
            killer.join()
            wrong = [(a, b) for a, b in zip(found, wanted, strict=True) if a is not None and a != b]
            assert wrong == []
            assert found.count(None) <= (CLIENTS if stream else 0)
            until = time.monotonic() + 120
            while "rung_replicas 2" not in httpx.get(f"{two.address}/metrics", timeout=60).text:
                assert time.monotonic() < until, "the replica was not started again"
                time.sleep(0.5)
            replicas = replicas_of(psutil.Process(two.process.pid))
    assert not replicas_of(psutil.Process())


def test_a_cluster_without_ray_or_address_is_refused_in_one_line(rung_home, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(["serve", SCRATCH, "--port=0", "--cluster=local"]) == 2
    assert "--cluster needs Ray, which is not installed" in capsys.readouterr().err
    assert run(["serve", SCRATCH, "--port=0", "--cluster=head"]) == 2
    assert "--cluster is 'head': say local, or ray://HOST:10001" in capsys.readouterr().err


class Actor:
    """A `HostProcess` whose news are said beforehand."""

    def __init__(self, *news: Any):
        left = list(news)

        async def next_one() -> Any:
            if isinstance(left[0], type):
                raise left[0]
            return left.pop(0)

        self.sent: list[int] = []
        self.news = SimpleNamespace(remote=next_one)
        self.signal = SimpleNamespace(remote=self.sent.append)


class Gone(Exception):
    pass


def test_what_keeps_a_replica_from_beginning_is_told():
    class Unable(Child):
        async def spawn(self):
            raise ConfigError("--cluster could not start a replica on b: no such folder")

    one = Unable([], {}, lambda address: None, lambda: None)
    with pytest.raises(ConfigError, match="on b: no such folder"):
        asyncio.run(one.start())


def test_a_replica_that_does_not_come_back_at_once_is_started_until_it_does(monkeypatch):
    monkeypatch.setattr(children, "AGAIN_SECONDS", 0.0)
    serving = b"rung is serving at http://127.0.0.1:9/v1\n"
    # It answers, cannot begin, ends before it answers, and answers again.
    starts = [[serving], OSError("no memory"), [b"Traceback\n"], [serving], None]
    told: list[str] = []

    class Frail(Child):
        async def spawn(self):
            news = starts.pop(0)
            if isinstance(news, OSError):
                raise news
            if news is None:
                self._ending, news = True, []

            async def lines():
                for line in news:
                    yield line

            async def wait() -> int:
                return 1

            return SimpleNamespace(stdout=lines(), returncode=1, wait=wait)

    async def live() -> None:
        one = Frail([], {}, lambda address: told.append("came"), lambda: told.append("went"))
        await one.start()
        assert one._watch is not None
        await asyncio.wait_for(one._watch, 30)

    asyncio.run(live())
    assert told == ["came", "went", "came", "went"] and starts == []


def test_a_replica_whose_host_goes_while_it_begins_begins_again(monkeypatch):
    monkeypatch.setattr(hosted, "AGAIN_SECONDS", 0.0)
    begun: list[int] = []

    async def begin(place: int, command: list[str]) -> str:
        begun.append(place)
        if len(begun) < 3:
            raise Gone
        return "a process"

    ray = SimpleNamespace(exceptions=SimpleNamespace(RayError=Gone))
    hosts = SimpleNamespace(ray=ray, begin=begin)
    one = hosted._HostedChild(hosts, 1, ["serve"], lambda address: None, lambda: None)
    assert asyncio.run(one.spawn()) == "a process" and begun == [1, 1, 1]


def test_a_hosted_process_says_whole_lines_and_how_it_ended(capfdbinary):
    ended: list[Actor] = []
    ray = SimpleNamespace(exceptions=SimpleNamespace(RayError=Gone), kill=ended.append)

    async def lines(process: HostedProcess) -> list[bytes]:
        return [line async for line in process.stdout]

    parts = ([(1, b"serving at http://a"), (2, b"careful\n")], None), ([(1, b":1/v1\nmore\n")], None)
    one = HostedProcess(ray, Actor(*parts, ([], 3)))
    assert asyncio.run(lines(one)) == [b"serving at http://a:1/v1\n", b"more\n"]
    assert one.returncode == 3 and capfdbinary.readouterr().err == b"careful\n"
    lost = HostedProcess(ray, Actor(Gone))
    assert asyncio.run(lines(lost)) == [] and lost.returncode == -signal.SIGKILL
    assert len(ended) == 2, "an actor that stays would keep its place from the next one"
