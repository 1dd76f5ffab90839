"""A soak: clients that ask, stream, hang up, time out and send rubbish, for as long as you say.

    make soak                                  # ten minutes, 32 clients, tiny models of four kinds
    make soak ARGS="--minutes 1 --clients 8"
    python -m bench.soak --url http://127.0.0.1:8000 --models smollm2-135m --pid PID

Without --url it serves random weights with `rung serve`, in a process and a home of their own. Fails
unless, after the first third, the server's memory stays within --growth megabytes (medians of the
second and the last third), hardly more files and threads are open at the end than at the beginning, no
answer is a 5xx, no client is stuck, queue and lanes are empty within seconds of the last client's end,
and a request is then answered at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
RUBBISH = (
    b"", b"[]", b"null", b"{", b'{"model": 3}', b"\x80\x04\x95", b'{"messages": [{}]}',
    b'{"model":"MODEL","prompt":[],"n":-1}', b'{"model":"MODEL","messages":[],"stream":true}',
)  # fmt: skip


class Client(threading.Thread):
    """One that behaves badly in a random order of its own."""

    def __init__(self, url: str, models: Sequence[str], seed: int, until: float):
        super().__init__(daemon=True)
        self.url, self.models, self.until = url, models, until
        self.random, self.seen = random.Random(seed), Counter[str]()
        self.tricks = (
            self.ask, self.ask, self.stream, self.hang_up, self.time_out, self.rubbish, self.half
        )  # fmt: skip

    def run(self) -> None:
        while time.monotonic() < self.until:
            trick = self.random.choice(self.tricks)
            try:
                trick()
                self.seen[trick.__name__] += 1
            except httpx.TimeoutException:
                self.seen["timed out"] += 1
            except (httpx.HTTPError, OSError) as fault:
                self.seen[type(fault).__name__] += 1

    @property
    def model(self) -> str:
        return self.random.choice(self.models)

    def body(self, **settings) -> dict:
        words = " ".join(self.random.choices(("tell", "me", "of", "rungs"), k=5))
        seed = self.random.randrange(1000)
        messages = [{"role": "user", "content": words}]
        return {"model": self.model, "messages": messages, "temperature": 1.0, "seed": seed, **settings}

    def note(self, answer: httpx.Response) -> None:
        self.seen[str(answer.status_code)] += 1

    def ask(self) -> None:
        self.note(httpx.post(self.url + CHAT, json=self.body(max_tokens=12), timeout=60))

    def stream(self) -> None:
        body = self.body(max_tokens=24, stream=True)
        with httpx.stream("POST", self.url + CHAT, json=body, timeout=60) as answer:
            self.note(answer)
            for _ in answer.iter_lines():
                pass

    def hang_up(self) -> None:
        body = self.body(max_tokens=200, stream=True)
        with httpx.stream("POST", self.url + CHAT, json=body, timeout=60) as answer:
            for i, _ in enumerate(answer.iter_lines()):
                if i >= self.random.randrange(4):
                    return

    def time_out(self) -> None:
        patience = self.random.uniform(0.01, 0.5)
        body = {"model": self.model, "prompt": "once", "max_tokens": 300, "temperature": 1.5}
        httpx.post(self.url + TEXT, json=body, timeout=patience)

    def rubbish(self) -> None:
        content = self.random.choice(RUBBISH).replace(b"MODEL", self.model.encode())
        kind = self.random.choice(("application/json", "text/plain", "multipart/form-data"))
        address = self.random.choice((CHAT, TEXT, "/v1/files", "/v1/embeddings", "/v1/nothing"))
        answer = httpx.post(
            self.url + address, content=content, headers={"Content-Type": kind}, timeout=60
        )
        self.note(answer)

    def half(self) -> None:
        """A request that stops in the middle, and a connection that is cut."""
        parts = urlsplit(self.url)
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as raw:
            text = json.dumps(self.body())
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            whole = f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode()
            raw.sendall(whole[: self.random.randrange(len(whole))])


@contextlib.contextmanager
def own_server() -> Iterator[tuple[str, list[str], int]]:
    """`rung serve` over tiny random weights: its address, models and process."""
    with tempfile.TemporaryDirectory(prefix="rung-soak-") as folder:
        os.environ["RUNG_HOME"] = folder
        from tests.test_models import base_folder, keep

        base = base_folder(Path(folder) / "tiny")
        kinds = ("lora", "prompt_tuning", "prefix_tuning")
        for kind in kinds:
            keep(f"my-{kind}", kind, base)
        models = [f"my-{kind}" for kind in kinds]
        command = [sys.executable, "-u", "-m", "rung.cli", "serve", *models, "--port", "0"]
        command += ["--memory", "64MB"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            address = process.stdout.readline().removeprefix("serving at ").strip()
            if not address:
                raise SystemExit("the server did not start")
            yield address.removesuffix("/v1"), [*models, "tiny"], process.pid
            process.terminate()
            if process.wait(60):
                raise SystemExit(f"the server ended with {process.returncode}")
        finally:
            process.kill()


def figures(url: str) -> dict[str, float]:
    """Answers that run and wait, as the server tells."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    lines = [line.split() for line in text.splitlines() if line.startswith("rung_requests_")]
    return {line[0]: float(line[1]) for line in lines if "{" not in line[0]}


def settled(url: str, seconds: float = 30) -> bool:
    """Whether nothing runs or waits any more within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = figures(url)
        if not found["rung_requests_running"] and not found["rung_requests_waiting"]:
            return True
        time.sleep(0.1)
    return False


@dataclass
class Watch:
    """What is seen of the server's process: (seconds, megabytes) and what it holds open."""

    process: psutil.Process
    memory: list[tuple[float, float]] = field(default_factory=list)

    def look(self, moment: float) -> float:
        self.memory.append((moment, self.process.memory_info().rss / 1e6))
        return self.memory[-1][1]

    def growth(self, whole: float) -> float:
        """Megabytes between the medians of the second and the last third."""
        middle = [m for at, m in self.memory if whole / 3 <= at < whole * 2 / 3]
        last = [m for at, m in self.memory if at >= whole * 2 / 3]
        return statistics.median(last) - statistics.median(middle) if middle and last else 0.0

    @property
    def held(self) -> tuple[int, int]:
        """Open files and threads."""
        return self.process.num_fds(), self.process.num_threads()


def soak(url: str, models: Sequence[str], watch: Watch, given: argparse.Namespace) -> list[str]:
    """Let the clients loose; what was wrong, one line each."""
    seconds, began = given.minutes * 60, time.monotonic()
    fds, threads = watch.held
    clients = [Client(url, models, seed, began + seconds) for seed in range(given.clients)]
    for client in clients:
        client.start()
    while (at := time.monotonic() - began) < seconds:
        memory = watch.look(at)
        print(f"{seconds - at:6.0f} s left, {memory:.0f} MB, {figures(url)}", flush=True)
        time.sleep(min(5.0, max(0.1, seconds - at)))
    for client in clients:
        client.join(90)
    stuck, free = sum(client.is_alive() for client in clients), settled(url)
    time.sleep(6)  # idle connections are kept for five seconds
    began = time.monotonic()
    body = {"model": models[0], "messages": [{"role": "user", "content": "x"}], "max_tokens": 3}
    answered = httpx.post(url + CHAT, timeout=30, json=body)
    took = time.monotonic() - began
    seen = sum((client.seen for client in clients), Counter())
    growth, (fds_after, threads_after) = watch.growth(seconds), watch.held
    print(dict(sorted(seen.items())))
    print(f"memory {growth:+.1f} MB, files {fds} to {fds_after}, threads {threads} to {threads_after}")
    print(f"a request after it: {answered.status_code} in {took:.2f} s")
    broken = {word: n for word, n in seen.items() if word.startswith("5")}
    faults = (
        (stuck, f"{stuck} clients are stuck"),
        (not free, "queue or lanes are still taken"),
        (broken, f"answers of the server's own fault: {broken}"),
        (not seen["200"], "nothing was answered"),
        (answered.status_code != 200 or took > 5, "the server does not answer at once any more"),
        (growth > given.growth, f"memory grew by {growth:.1f} MB"),
        # The store keeps some connections of its own; a leak would be of hundreds.
        (fds_after > fds + 24, "files or connections are left open"),
        # Python's pool for blocking calls holds 40 threads at most.
        (threads_after > threads + 48, "threads are left"),
    )
    return [told for wrong, told in faults if wrong]


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--url", help="of a server that runs already")
    parser.add_argument("--models", nargs="+", help="to ask there")
    parser.add_argument("--pid", type=int, help="of that server, whose memory is watched")
    parser.add_argument("--growth", type=float, default=24, help="megabytes that memory may grow")
    given = parser.parse_args()
    if given.url and not (given.models and given.pid):
        parser.error("--url needs --models and --pid")
    there = contextlib.nullcontext((given.url, given.models, given.pid))
    with there if given.url else own_server() as (url, models, pid):
        faults = soak(url, models, Watch(psutil.Process(pid)), given)
    for fault in faults:
        print(f"FAULT {fault}")
    print("failed" if faults else "passed")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
