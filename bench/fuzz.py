"""A fuzz: random requests, well-formed and not, to every address that the server describes.

    make fuzz                              # 10,000 requests
    make fuzz ARGS="--requests 100000 --seed 2"

Requests follow the server's own description (schemathesis), with parts of them replaced by what no
description allows. Fails at a 5xx, a traceback, a place on this machine in an answer, or an error of
another shape than documented. Serves random weights with `rung serve`, in a home of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from typing import Any

import httpx
import hypothesis
import schemathesis
from schemathesis.config import (
    GenerationConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)

from bench.soak import own_server

# What an answer must never hold: a stack, or where something lies on this machine.
FORBIDDEN = ("Traceback (most recent call last)", 'File "/', "/site-packages/", "sqlite:///", "/rung/")
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 1e308, "", "\x00", "\ud800", "é" * 300, [], {}, [[[]]], {"": {}},
    "../../etc/passwd", "/etc/passwd", "' OR 1=1 --", "<script>", "%00", "NaN", -(2**31), 0.1,
)  # fmt: skip
RAW = (b"", b"{", b"\xff\xfe", b"[1,", b'{"a":NaN}', b"null", b'"x"', b"[" * 5000, b'{"\\ud800":1}')


def spoiled(value: Any, draw: random.Random) -> Any:
    """A JSON value with one part replaced by something odd."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(list(value))
        if draw.random() < 0.1:
            return {**value, draw.choice(("", "x" * 200, "__class__", "é")): draw.choice(ODD)}
        return {**value, key: spoiled(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        return [*value[:at], spoiled(value[at], draw), *value[at + 1 :]]
    return draw.choice(ODD)


def wrong(answer: httpx.Response, home: str) -> str | None:
    """What is wrong with an answer; None where nothing is."""
    text = answer.text
    if answer.status_code >= 500 and answer.status_code != 501:  # 501: the owner has not set it up
        return f"status {answer.status_code}"
    held = next((one for one in (*FORBIDDEN, home) if one in text), None)
    if held is not None and answer.headers.get("content-type", "").startswith("application/json"):
        return f"'{held}' in the answer"
    if answer.status_code >= 400:
        try:
            message = answer.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            return "an error of another shape"
        return (
            None if isinstance(message, str) and "\n" not in message else "a message of several lines"
        )
    return None


class Fuzz:
    """Sends requests and keeps what was wrong."""

    def __init__(self, http: httpx.Client, home: str, most: int, seed: int):
        self.http, self.home, self.most = http, home, most
        self.draw, self.seen = random.Random(seed), Counter[int]()
        self.faults: dict[str, str] = {}  # kind of fault at an address -> the first request of it

    @property
    def done(self) -> int:
        return sum(self.seen.values())

    def send(self, case: Any) -> None:
        """Send a described request, or that request with a part of it spoiled."""
        said = case.as_transport_kwargs()
        method, path = said["method"], said["url"]
        settings = {k: said[k] for k in ("params", "headers", "json", "files", "data") if said.get(k)}
        if self.draw.random() < 0.6 and method in ("POST", "PUT", "PATCH"):
            settings.pop("files", None)
            settings.pop("data", None)
            body = settings.pop("json", {})
            raw = json.dumps(spoiled(body, self.draw)).encode()
            if self.draw.random() < 0.15:
                raw = self.draw.choice(RAW)
            settings["content"] = raw
            settings["headers"] = {"content-type": "application/json"}
        try:
            request = self.http.build_request(method, path, **settings)
            request.read()
        except Exception:  # what this client cannot write down is not sent
            return
        try:
            answer = self.http.send(request)
        except httpx.TransportError as fault:
            self.fault(f"{method} {case.path}: {type(fault).__name__}", settings)
            return
        self.seen[answer.status_code] += 1
        if (found := wrong(answer, self.home)) is not None:
            self.fault(f"{method} {case.path}: {found}", settings | {"answer": answer.text[:300]})

    def fault(self, kind: str, settings: dict) -> None:
        if kind not in self.faults:
            self.faults[kind] = repr(settings)[:600]
            print(f"FAULT {kind}\n      {self.faults[kind]}", flush=True)


def run(fuzz: Fuzz, each: int) -> None:
    """Go round all addresses, so many requests to each, until enough were sent."""
    config = SchemathesisConfig(
        projects=ProjectsConfig(default=ProjectConfig(generation=GenerationConfig(max_examples=each)))
    )
    schema = schemathesis.openapi.from_dict(fuzz.http.get("/openapi.json").json(), config=config)
    settings = hypothesis.settings(
        max_examples=each, deadline=None, database=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    began = time.monotonic()
    while fuzz.done < fuzz.most:
        for found in schema.get_all_operations():
            operation = found.ok()

            @settings
            @hypothesis.seed(fuzz.draw.randrange(2**32))
            @hypothesis.given(case=operation.as_strategy())
            def ask(case: Any) -> None:
                if fuzz.done < fuzz.most:
                    fuzz.send(case)

            ask()
        spent = time.monotonic() - began
        print(
            f"{fuzz.done:7,} requests in {spent:.0f} s, {len(fuzz.faults)} kinds of fault", flush=True
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--each", type=int, default=40, help="requests to an address in a row")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with own_server() as (url, _, _), httpx.Client(base_url=url, timeout=120) as http:
        fuzz = Fuzz(http, tempfile.gettempdir() + "/", given.requests, given.seed)
        run(fuzz, given.each)
        alive = http.get("/health").status_code
        print(dict(sorted(fuzz.seen.items())))
        told = f"RATIO fuzz_faults {len(fuzz.faults)} of {fuzz.done} requests, health {alive}"
        print(told, flush=True)
    return 1 if fuzz.faults or alive != 200 else 0


if __name__ == "__main__":
    sys.exit(main())
