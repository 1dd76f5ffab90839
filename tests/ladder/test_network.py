"""A climb on a cluster of two hosts, one of which is cut off: nothing finished is repeated or lost."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rung.store import Store
from tests import postgres
from tests.ladder.hill import SCRATCH, rungs_of, write_words
from tests.ladder.test_kills import table
from tests.ladder.test_workers import command, ended, until_found

HERE, THERE, SPACE, LINK = "10.77.0.1", "10.77.0.2", "rung-other", "rung0"
RAY, CLIENT = 6399, 10001


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _may_make_networks() -> bool:
    try:
        _ip("netns", "add", SPACE)
        _ip("netns", "del", SPACE)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@dataclass
class Hosts:
    """Two hosts of a Ray cluster: this machine, and a network of its own behind a link."""

    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *words: str, there: bool = False) -> None:
        """Start a node of Ray with one core."""
        before = ["ip", "netns", "exec", SPACE] if there else []
        words = (*words, f"--node-ip-address={THERE if there else HERE}", "--num-cpus=1", "--block",
                 "--object-store-memory=100000000")  # fmt: skip
        started = subprocess.Popen(
            [*before, sys.executable, "-m", "ray.scripts.scripts", "start", *words],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"},
        )  # fmt: skip
        self.processes.append(started)

    def cut(self) -> None:
        """Let nothing pass between the two any more."""
        _ip("link", "set", LINK, "down")


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    pytest.importorskip("ray", reason="the extra 'cluster' is not installed")
    if not _may_make_networks():
        pytest.skip("needs to be allowed to make network namespaces (ip netns)")
    monkeypatch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)
    made = Hosts()
    try:
        _ip("netns", "add", SPACE)
        _ip("link", "add", LINK, "type", "veth", "peer", "name", "eth0", "netns", SPACE)
        _ip("addr", "add", f"{HERE}/24", "dev", LINK)
        _ip("link", "set", LINK, "up")
        for words in (("addr", "add", f"{THERE}/24", "dev", "eth0"), ("link", "set", "eth0", "up"),
                      ("link", "set", "lo", "up")):  # fmt: skip
            _ip("-n", SPACE, *words)
        made.start("--head", f"--port={RAY}", f"--ray-client-server-port={CLIENT}",
                   "--include-dashboard=false")  # fmt: skip
        until_found(lambda: _answers(CLIENT))
        made.start(f"--address={HERE}:{RAY}", there=True)
        until_found(_joined)
        yield made
    finally:
        for process in made.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
        _ip("netns", "del", SPACE)


def _joined() -> bool:
    """Whether Ray knows of both hosts; asked in a process that leaves nothing connected."""
    asked = f"import ray; ray.init('ray://{HERE}:{CLIENT}'); print(len(ray.nodes()))"
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True,
                          env={**os.environ, "RAY_AUTH_MODE": "token"})  # fmt: skip
    return said.stdout.split()[-1:] == ["2"]


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HERE, port), timeout=1):
        return True
    return False


def _of_the_other() -> set[int]:
    said = subprocess.run(["ip", "netns", "pids", SPACE], check=True, capture_output=True, text=True)
    return set(map(int, said.stdout.split()))


@pytest.fixture
def words(tmp_path: Path, rung_home: Path) -> Path:
    return write_words(tmp_path / "words.jsonl")


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not postgres.AVAILABLE, reason="needs PostgreSQL")
def test_a_worker_that_is_cut_off_is_replaced_by_the_other(words, hosts, monkeypatch):
    flags: list[Any] = [
        words, "--base", SCRATCH, "--dtype", "float32", "--device", "cpu", "--steps", "600",
        "--batch-size", "8", "--validation", "0.2", "--test", "0.2", "--all", "--budget", "1h",
        "--trials", "1", "--requests", "10", "--only", "lora", "--only", "prompt_tuning",
        "--only", "tfidf", "--skip", "lora-upper,lora-int8", "--report", words.parent / "r.html",
    ]  # fmt: skip
    with postgres.serving(HERE) as url:
        monkeypatch.setenv("RUNG_STORE", url)
        alone = command(*flags, "--name", "one")
        said = ended(alone)
        assert alone.returncode == 0, said
        process = command(*flags, "--name", "two", "--workers", "2", "--cluster",
                          f"ray://{HERE}:{CLIENT}")  # fmt: skip
        with Store.open() as store:
            one = store.climbs.list()[0]
            two = until_found(lambda: next((c for c in store.climbs.list() if c.name == "two"), None))

            def at_work() -> bool:
                assert process.poll() is None, ended(process)
                running = store.runs.list(status="running")
                return bool({r.pid for r in running if r.started >= two.started} & _of_the_other())

            until_found(at_work)
            hosts.cut()
            said = ended(process)
            assert process.returncode == 0, said
            assert "is gone: another one takes it up" in said
            assert table(store, two.id) == table(store, one.id)
            for key, rung in rungs_of(store, two.id).items():
                done = rungs_of(store, one.id)[key].trials["done"]
                assert len(rung.trials["done"]) == len(done)
