"""Every bad request gets its answer in OpenAI's shape, and the next good one succeeds."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from dataclasses import replace

import httpx
import pytest

from tests.engine.world import engine_of, tiny_llama
from tests.server.conftest import serve

HELLO = [{"role": "user", "content": "Hello there"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def chat(**changes):
    return CHAT, {"model": "base", "messages": HELLO, "max_tokens": 3, **changes}


def text(**changes):
    return TEXT, {"model": "base", "prompt": "Hello", "max_tokens": 3, **changes}


def fault_of(response, status=400):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and "\n" not in error["message"] and len(error["message"]) < 1200
    assert response.headers["x-request-id"].startswith("req_")
    return error


@pytest.fixture(autouse=True)
def still_serves(http):
    yield
    assert http.get("/health").status_code == 200
    assert http.post(CHAT, json=chat()[1]).status_code == 200


NUMBERS = [float("nan"), float("inf"), "hot", "1", 3, -0.1, True, [1]]
REFUSED = [
    (chat(messages=[]), "messages"),
    (chat(messages=[{}]), "messages"),
    (chat(messages=[{"role": 123, "content": "x"}]), "messages"),
    (chat(messages=[{"role": "king", "content": "x"}]), "messages"),
    (chat(messages=[{"role": "user"}]), "messages"),
    (chat(messages=[{"role": "user", "content": None}]), "messages"),
    (chat(messages="hello"), "messages"),
    (chat(messages=None), "messages"),
    (chat(model=None), "model"),
    *((chat(n=n), "n") for n in (0, -1, 10**9, 1.5, "2", True)),
    *((chat(max_tokens=n), "max_tokens") for n in (-1, 0, 1.5, "x")),
    *((text(max_tokens=n), "max_tokens") for n in (-1, 0)),
    *((chat(temperature=t), "temperature") for t in NUMBERS),
    *((text(top_p=t), "top_p") for t in NUMBERS),
    (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    (text(logprobs=6), "logprobs"),
    *((chat(stop=s), "stop") for s in (["a"] * 5, "", ["a", ""], 3, [3], {"a": 1})),
    *((text(prompt=p), "prompt") for p in ([], [[]], ["a", 3], [[1], "a"], None, 3, {"a": 1}, [True])),
    *((text(prompt=p), "prompt") for p in ([-1], [258], [10**30], [[5], [999]], [1.5])),
    (text(prompt=["hi"] * 5000), "prompt"),
    (text(prompt=""), "prompt"),
    (text(prompt=["hi"] * 200, n=2), "n"),
    *((chat(logit_bias=b), "logit_bias") for b in ({"a": 1}, {"1": "x"}, {"5": 101}, {"258": 1}, [1])),
    *((chat(seed=s), "seed") for s in (1.5, "x", 2**63)),
    *((chat(presence_penalty=p), "presence_penalty") for p in (3, -2.5, "x")),
    (chat(stream_options={"include_usage": True}), "stream_options"),
    (chat(stream="yes"), "stream"),
    (chat(tools=[{"type": "function"}]), "tools"),
    (chat(response_format={"type": "hiccup"}), "response_format"),
    (chat(top_logprobs=2), "top_logprobs"),
    (chat(tool_choice="required"), "tool_choice"),
    (chat(parallel_tool_calls="yes"), "parallel_tool_calls"),
    (chat(messages=[{"role": "tool", "content": "3"}]), "messages"),
    (chat(messages=[{"role": "user", "content": "x", "tool_calls": [{"id": "1"}]}]), "messages"),
    (chat(audio={"voice": "x"}), "audio"),
    (chat(chat_template="{{ 1 }}"), "chat_template"),
    (chat(top_pp=0.5), "top_pp"),
    (text(echo=True, stream=True), "echo"),
    (text(best_of=2, stream=True), "best_of"),
    (text(best_of=2, n=3), "best_of"),
    (text(best_of=21), "best_of"),
    (text(suffix="end"), "suffix"),
]


@pytest.mark.parametrize(("request_", "param"), REFUSED, ids=lambda v: str(v)[:60])
def test_refused_naming_the_parameter(http, request_, param):
    address, content = request_
    response = http.post(
        address, content=json.dumps(content), headers={"Content-Type": "application/json"}
    )
    error = fault_of(response)
    assert (error["param"] or "").split(".")[0] == param
    assert error["type"] == "invalid_request_error"


def test_an_absurd_n_is_refused_at_once(http):
    """The best of three, since other work may hold the machine's cores."""
    for n in (0, -1, 10**9):
        took = []
        for _ in range(3):
            began = time.monotonic()
            fault_of(http.post(CHAT, json=chat(n=n)[1]))
            took.append(time.monotonic() - began)
        assert min(took) < 0.1


def test_a_chat_template_of_the_clients_never_runs(http):
    """Nothing is rendered, so nothing holds up the others."""
    endless = "{% for i in range(10**12) %}{{ i }}{% endfor %}"
    for extra in ({"chat_template": endless}, {"chat_template_kwargs": {"x": endless}}):
        began = time.monotonic()
        code = fault_of(http.post(CHAT, json=chat(**extra)[1]))["code"]
        assert code == ("unknown_parameter" if "chat_template" in extra else "not_supported")
        assert http.get("/health").status_code == 200 and time.monotonic() - began < 2


@pytest.fixture
def lure():
    """A listening address, and whoever came to it; it would send a client on."""
    came, listening = [], socket.create_server(("127.0.0.1", 0))

    def answer():
        with contextlib.suppress(OSError):
            while True:
                visitor, _ = listening.accept()
                came.append(visitor)
                visitor.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n")
                visitor.close()

    threading.Thread(target=answer, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/x.png", came
    listening.close()


def test_images_are_refused_and_nothing_is_fetched(http, lure):
    address, came = lure
    for url in ("http://169.254.169.254/", "file:///etc/passwd", "http://a\\b/", address):
        part = {"type": "image_url", "image_url": {"url": url}}
        messages = [{"role": "user", "content": [part]}]
        error = fault_of(http.post(CHAT, json=chat(messages=messages)[1]))
        assert "nothing is fetched" in error["message"]
    time.sleep(0.1)
    assert came == []
    with contextlib.suppress(httpx.HTTPError):
        httpx.get(address)
    assert len(came) == 1  # it does notice visitors


def test_a_misspelt_parameter_names_the_nearest(http):
    error = fault_of(http.post(CHAT, json=chat(temprature=1)[1]))
    assert error["message"] == "unknown parameter 'temprature', did you mean 'temperature'?"


@pytest.mark.parametrize(
    "body", ["{", "[]", "null", '"x"', "3", "", "\ufeff{}", "[" * 100_000, '{"n":' + "9" * 5000 + "}"]
)
def test_a_body_that_is_no_object(http, body):
    for address in (CHAT, TEXT):
        response = http.post(
            address, content=body.encode(), headers={"Content-Type": "application/json"}
        )
        fault_of(response)


def test_other_content_types(http):
    good = json.dumps(chat()[1])
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/octet-stream"):
        fault_of(http.post(CHAT, content=good, headers={"Content-Type": kind}))
    json_kind = {"Content-Type": "application/json"}
    fault_of(http.post(CHAT, content=b"\x80\x04\x95pickle", headers=json_kind))


def test_unknown_models_and_addresses(http):
    for address, content in (chat(model="lorra"), chat(model="../../etc")):
        response = http.post(
            address, content=json.dumps(content), headers={"Content-Type": "application/json"}
        )
        error = fault_of(response, 404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "base URL" not in fault_of(http.get("/v1/nothing"), 404)["message"]
    for wrong in (CHAT.removeprefix("/v1"), "/v1" + CHAT):
        said = fault_of(http.post(wrong, json={}), 404)["message"]
        assert f"there is {CHAT}: look at /v1 in your client's base URL" in said
    fault_of(http.get(CHAT), 405)


def test_a_prompt_too_long_names_both_counts(http):
    error = fault_of(http.post(TEXT, json=text(prompt="x" * 600)[1]))
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert "600" in error["message"] and "512" in error["message"]
    long = [{"role": "user", "content": "x" * 600}]
    error = fault_of(http.post(CHAT, json={"model": "base", "messages": long}))
    assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
    for most in (511, 10**12):
        error = fault_of(http.post(CHAT, json=chat(max_tokens=most)[1]))
        assert error["code"] == "context_length_exceeded"
        assert str(most) in error["message"] and "512" in error["message"]


@pytest.mark.parametrize("content", ["\ud800", "a\x00b", "\udfff\ud800", "<|im_end|>", "\U0010fffd"])
def test_odd_characters_are_answered_or_refused(http, content):
    messages = [{"role": "user", "content": content}]
    for address, request_ in (chat(messages=messages), text(prompt=content)):
        response = http.post(
            address, content=json.dumps(request_), headers={"Content-Type": "application/json"}
        )
        assert response.status_code in (200, 400), response.text


def test_large_headers_and_bodies(live, http):
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as raw:
        try:
            raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Large: " + b"a" * 10_000_000)
            answer = raw.recv(100)
        except (ConnectionResetError, BrokenPipeError):
            answer = b""
    assert answer == b"" or answer.split()[1] in (b"400", b"431")
    big = json.dumps(text(prompt="x" * (9 << 20))[1])
    fault_of(http.post(TEXT, content=big, headers={"Content-Type": "application/json"}), 413)

    def drops():
        yield from (big[i : i + (1 << 20)].encode() for i in range(0, len(big), 1 << 20))

    fault_of(http.post(TEXT, content=drops(), headers={"Content-Type": "application/json"}), 413)


def test_neutral_values_of_unsupported_parameters_are_fine(http):
    neutral = {
        "tools": [], "logprobs": False, "response_format": {"type": "text"}, "presence_penalty": 0,
        "logit_bias": {}, "user": "me", "metadata": {}, "store": False, "n": None,
        "stop": None, "temperature": None, "service_tier": "auto", "prompt_cache_key": "x",
        "prompt_cache_retention": "in_memory", "reasoning_effort": "none", "verbosity": "medium",
        "top_k": -1,
    }  # fmt: skip
    assert http.post(CHAT, json=chat(**neutral)[1]).status_code == 200


BROKEN = "kite \ud83d"


@pytest.mark.parametrize(
    ("address", "content", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": BROKEN}]}, "messages.0.content"),
        (CHAT, {"response_format": {"type": "regex", "regex": BROKEN}}, "response_format.regex"),
        (
            CHAT,
            {"response_format": {"type": "choice", "choice": ["a", BROKEN]}},
            "response_format.choice.1",
        ),
        (CHAT, {BROKEN: 1}, None),
        (CHAT, {"model": BROKEN}, "model"),
        (CHAT, {"stop": [BROKEN]}, "stop.0"),
        (TEXT, {"prompt": BROKEN, "echo": True}, "prompt"),
        ("/v1/embeddings", {"model": "base", "input": [BROKEN]}, "input.0"),
        ("/v1/fine_tuning/jobs", {"model": "base", "training_file": BROKEN}, "training_file"),
    ],
)
def test_half_a_character_is_refused_wherever_it_stands(http, address, content, param):
    """In whatever way it comes: as an escape, or as the bytes that UTF-8 does not allow."""
    usual = {CHAT: chat()[1], TEXT: text()[1]}.get(address, {})
    schema = {"type": "object", "properties": {"a": {"enum": [BROKEN]}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    bodies = [{**usual, **content}] + ([{**usual, "tools": [tool]}] if address == CHAT else [])
    for one in bodies:
        for sent in (
            json.dumps(one).encode(),
            json.dumps(one, ensure_ascii=False).encode("utf-8", "surrogatepass"),
        ):
            head = {"Content-Type": "application/json"}
            error = fault_of(http.post(address, content=sent, headers=head), 400)
            assert error["code"] == "invalid_unicode"
            assert error["param"] in (param, "tools.0.function.parameters.properties.a.enum.0")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\x85", "\u2028"])
@pytest.mark.parametrize(
    ("address", "content"),
    [
        (CHAT, {**chat()[1], "x{}y": 1}),
        (CHAT, {**chat()[1], "model": "x{}y"}),
        (CHAT, {**chat()[1], "logit_bias": {"x{}y": 1}}),
        ("/v1/responses", {"model": "base", "input": [{"x{}y": [None], "role": "user"}]}),
        ("/v1/responses", {"model": "base", "input": [{"type": "x{}y"}]}),
    ],
)
def test_a_fault_is_one_line_whatever_names_the_client_chose(http, address, content, end):
    sent = json.loads(json.dumps(content).replace("x{}y", json.dumps(f"x{end}y")[1:-1]))
    response = http.post(address, json=sent)
    message = fault_of(response, response.status_code)["message"]
    assert response.status_code in (400, 404)
    assert message.splitlines() == [message]


def test_a_full_queue_says_when_to_come_back():
    served = serve(engine_of(tiny_llama(), (), max_batch=1, max_waiting=2))
    try:
        with httpx.Client(base_url=served.url, timeout=20) as http:
            response = http.post(TEXT, json=text(n=4)[1])
            assert fault_of(response, 429)["type"] == "rate_limit_error"
            assert float(response.headers["retry-after"]) > 0
            assert http.post(TEXT, json=text(n=2)[1]).status_code == 200
    finally:
        served.stop()


def walked(routes):
    """(verb, path) of every route, those of included routers too."""
    for route in routes:
        if inner := getattr(route, "original_router", None):
            yield from walked(inner.routes)
        else:
            yield from ((verb, route.path) for verb in sorted(route.methods - {"HEAD"}))


def test_keys_guard_every_route_but_health():
    served = serve(engine_of(tiny_llama(), ()), api_keys=("first", "sécond"))
    try:
        with httpx.Client(base_url=served.url, timeout=20) as http:
            ways = [way for way in walked(served.app.routes) if way[1] != "/health"]
            assert len(ways) >= 23
            wrong = [{}, {"Authorization": "Bearer no"}, {"Authorization": "Basic first"}]
            for verb, address in [*ways, ("GET", "/nothing"), ("POST", "/v1/files/../chat")]:
                for headers in wrong:
                    answer = http.request(verb, address, headers=headers)
                    if address.startswith("/v1/messages"):  # in the words of that API
                        assert answer.status_code == 401
                        assert answer.json()["error"]["type"] == "authentication_error"
                    else:
                        assert fault_of(answer, 401)["code"] == "invalid_api_key"
            assert http.get("/health").status_code == 200
            for key in ("first", "sécond"):
                headers = {"Authorization": f"Bearer {key}".encode()}
                assert http.get("/v1/models", headers=headers).status_code == 200
    finally:
        served.stop()


def test_every_key_is_compared_in_full(monkeypatch):
    """The time that a comparison takes must not say which key was near, or whether one was right."""
    import hmac

    from rung.server.access import Access
    from rung.server.errors import ApiError

    seen = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: seen.append(len(a)) or compare(a, b))
    access = Access(["first", "second", "third"], lambda: None)
    for given, right in (
        ("first", True),
        ("third", True),
        ("firs", False),
        ("x" * 9000, False),
        ("", False),
    ):
        seen.clear()
        try:
            access.account(f"Bearer {given}")
            assert right
        except ApiError:
            assert not right
        assert seen == [64, 64, 64]  # hashes of one length, whatever was sent


def test_draining_finishes_what_is_in_flight():
    served = serve(engine_of(tiny_llama(), ()))
    answers = []

    def ask():
        content = text(max_tokens=300, temperature=2.0, seed=1)[1]
        answers.append(httpx.post(served.url + TEXT, json=content, timeout=30))

    asking = threading.Thread(target=ask)
    with httpx.Client(base_url=served.url, timeout=20) as http:
        assert http.get("/ready").status_code == 200
        asking.start()
        while not served.engine.scheduler.running:
            time.sleep(0.002)
        served.server.handle_exit(15, None)
        response = http.post(TEXT, json=text()[1])
        assert fault_of(response, 503)["code"] == "unavailable"
        assert "retry-after" in response.headers
        fault_of(http.get("/ready"), 503)
        assert http.get("/health").status_code == 200
    asking.join()
    assert answers[0].status_code == 200
    assert served.told == [1]  # how many requests it waits for, said once
    end = time.monotonic() + 10
    while served.engine.alive:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_fault_in_mid_stream_is_an_event(monkeypatch):
    engine = engine_of(tiny_llama(), ())
    served = serve(engine)
    runner, count = engine.scheduler.runner, []
    decode = runner.decode

    def breaks(ids, slots):
        count.append(1)
        if len(count) == 5:
            raise RuntimeError("out of luck")
        return decode(ids, slots)

    monkeypatch.setattr(runner, "decode", breaks)
    try:
        with httpx.Client(base_url=served.url, timeout=20) as http:
            lines = http.post(CHAT, json=chat(stream=True, max_tokens=50)[1]).text.split("\n\n")
            last = json.loads([line for line in lines if line][-1].removeprefix("data: "))
            assert last["error"]["type"] == "server_error"
            assert http.post(CHAT, json=chat()[1]).status_code == 200
    finally:
        served.stop()


def test_a_dead_engine_is_told(monkeypatch):
    monkeypatch.setattr("rung.server.app.WATCH", 60)  # it is not started again meanwhile
    engine = engine_of(tiny_llama(), ())
    served = serve(engine)
    try:
        with httpx.Client(base_url=served.url, timeout=20) as http:
            engine.stop()
            for address in ("/health", "/ready"):
                fault_of(http.get(address), 503)
            fault_of(http.post(CHAT, json=chat()[1]), 503)
    finally:
        served.stop()


def test_two_requests_at_once_reach_the_models_own_defaults(live, http):
    """A request that says nothing is drawn as its model's decoding says."""
    from rung.types import Decoding

    engine = live.engine
    warm = replace(engine.models["base"], name="warm", decoding=Decoding(5, 1.0, 0.9))
    engine.models["warm"] = warm
    try:
        said = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 5, "seed": 4}
        silent = http.post(CHAT, json={"model": "warm", "messages": HELLO, "seed": 4}).json()
        spoken = http.post(CHAT, json={"model": "base", "messages": HELLO, **said}).json()
        assert silent["choices"] == spoken["choices"]
        assert silent["usage"]["completion_tokens"] <= 5
    finally:
        del engine.models["warm"]


@pytest.mark.parametrize(
    ("place", "param"),
    [
        (("query", "limit"), "limit"), (("body", "messages", 0, "role"), "messages.0.role"),
        (("path", "id"), "id"), (("query",), "query"), (("tools", 1), "tools.1"), (("body",), None),
        ((), None),
    ],
)  # fmt: skip
def test_a_parameter_is_named_as_the_client_sent_it(place, param):
    from rung.server.errors import described

    assert described([{"loc": place, "type": "int_parsing", "msg": "Input is none"}])[1] == param
