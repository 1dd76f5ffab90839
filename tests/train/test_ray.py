"""Processes of a training on a Ray cluster: their output, their end, and the weights of one process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from rung import launch
from rung.artefacts import folders
from rung.errors import ConfigError, ProcessLost
from rung.launch.host_process import HostProcess
from rung.launch.ray import STARTED, _Followed
from tests.train.test_kill import SETTINGS, run_of, wait_for_steps
from tests.train.test_torchrun import FAR, furthest

BOTH = ["--launch", "ray", "--processes", "2"]


# --- one process, and those that follow it ------------------------------------------------------


def ended(process: HostProcess) -> tuple[bytes, int]:
    """All that a process writes, and its exit code."""
    found = b""
    while True:
        said, code = process.news(0.05)
        found += b"".join(part for _, part in said)
        if code is not None:
            return found, code


def test_a_process_says_what_it_writes_and_how_it_ended(tmp_path):
    one = HostProcess()
    assert one.begin(["--help"], {"COLUMNS": "80"}, str(tmp_path)) is None
    said, code = ended(one)
    assert code == 0 and b"tune" in said


def test_a_process_is_sent_signals(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\ntrap 'echo stopped; exit 7' INT\necho ready\nwhile :; do sleep 0.05; done\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # as Ray's processes have it
    one = HostProcess()
    try:
        assert one.begin([], {}, str(tmp_path)) is None
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    while not one.news()[0]:
        pass
    one.signal(signal.SIGINT)
    assert ended(one) == (b"stopped\n", 7)
    one.signal(signal.SIGINT)  # of one that has ended: nothing


def test_a_host_without_the_folder_says_so(tmp_path):
    said = HostProcess().begin(["models"], {}, str(tmp_path / "nowhere"))
    assert said is not None and "nowhere" in said


class Lost(Exception):
    pass


class Actor:
    """A process whose news are said beforehand; `went` has the signals that it was sent."""

    def __init__(self, *news: Any):
        self.left, self.went = list(news), []
        self.news = SimpleNamespace(remote=lambda: (id(self), len(self.left), self.left.pop(0)))
        self.signal = SimpleNamespace(remote=self.went.append)


class Ray:
    exceptions = SimpleNamespace(RayError=Lost)

    @staticmethod
    def wait(waiting: list, num_returns: int) -> tuple[list, list]:
        return waiting[:1], waiting[1:]

    @staticmethod
    def get(answer: tuple) -> tuple:
        if isinstance(answer[2], type):
            raise answer[2]
        return answer[2]


DONE, KILLED, REFUSED = ((), 0), ((), -signal.SIGKILL), ((), 2)


def test_what_processes_write_is_passed_on(capfdbinary):
    _Followed(Ray, [Actor((((1, b"one "), (2, b"wrong")), None), DONE), Actor(DONE)]).code()
    said = capfdbinary.readouterr()
    assert said.out == b"one " and said.err == b"wrong"


@pytest.mark.parametrize("end", [KILLED, Lost])
def test_a_lost_process_is_told_and_the_others_end_with_it(end):
    other = Actor(((), None), ((), -signal.SIGTERM))
    with pytest.raises(ProcessLost, match="process 0 of 2 .* ended by SIGKILL"):
        _Followed(Ray, [Actor(end), other]).code()
    assert other.went == [signal.SIGTERM]


def test_a_process_that_is_lost_before_it_begins_is_told_in_one_line(monkeypatch):
    from rung.launch import ray as module
    from rung.launch.ray_cluster import ClusterError

    killed, gone = [], SimpleNamespace(address=SimpleNamespace(remote=lambda: "address"))

    def lost(_):
        raise Lost

    ray = SimpleNamespace(
        exceptions=SimpleNamespace(RayError=Lost), get=lost, kill=killed.append,
        util=SimpleNamespace(remove_placement_group=killed.append),
        remote=lambda _: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: gone)),
    )  # fmt: skip
    for name in ("resources_of_each", "reserve", "place"):
        monkeypatch.setattr(module.ray_cluster, name, lambda *_: {})
    with pytest.raises(ClusterError, match="lost a process before it began"):
        module._trained(ray, ["tune"], 2)
    assert killed == [gone, gone, {}]


def test_a_failure_is_the_code_of_all():
    assert _Followed(Ray, [Actor(DONE), Actor(REFUSED)]).code() == 2


def test_ctrl_c_is_passed_on_and_then_it_kills(monkeypatch):
    presses = iter([True, True, False])

    def wait(waiting: list, num_returns: int) -> tuple[list, list]:
        if next(presses, False):
            raise KeyboardInterrupt
        return waiting[:1], waiting[1:]

    monkeypatch.setattr(Ray, "wait", staticmethod(wait))
    one = Actor(KILLED)
    assert _Followed(Ray, [one]).code() == 130
    assert one.went == [signal.SIGINT, signal.SIGKILL]


def test_a_process_of_it_knows_who_started_it(monkeypatch):
    for key, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(key, value)
    assert not launch.registry.module("ray").Launch("ray").here
    monkeypatch.setenv(STARTED, "1")
    found = launch.registry.module("ray").Launch("ray")
    assert found.here and (found.rank, found.size) == (1, 2)


def test_without_ray_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        ConfigError, match="--launch ray needs Ray, which is not installed: pip install"
    ):
        launch.get("ray").start(["tune"], 2)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(ConfigError, match="RAY_ADDRESS is 'head:6379': say local, or ray://HOST:10001"):
        launch.get("ray").start(["tune"], 2)


# --- Ray itself ---------------------------------------------------------------------------------


@pytest.fixture
def ray() -> None:
    pytest.importorskip("ray", reason="the extra 'cluster' is not installed")


def rung(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "rung", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def weights(name: str) -> Path:
    return folders.model_folder(name) / "adapter_model.safetensors"


def ranks() -> dict[int, psutil.Process]:
    """The processes of a training on this machine, by rank."""
    found = {}
    for one in psutil.process_iter():
        try:
            said = one.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if STARTED in said and "rung" in one.cmdline():
            found[int(said["RANK"])] = one
    return found


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(900)
def test_two_processes_of_ray_make_the_weights_of_one_and_go_on_after_faults(rung_home, quotes, ray):
    moments = random.Random(int(os.environ.get("RUNG_SEED", "1")))
    given = ["--data", str(quotes), *SETTINGS]
    for name, how in (("whole", []), ("both", BOTH)):
        done = rung("tune", name, *given, *how)
        said, wrong = done.communicate(timeout=300)
        assert done.returncode == 0, wrong
    assert "both" in said + wrong
    assert furthest(weights("whole"), weights("both")) <= FAR
    for name in ("killed", "stopped"):
        one = rung("tune", name, *given, *BOTH)
        wait_for_steps(name, one)
        time.sleep(moments.uniform(0, 0.5))
        if name == "killed":
            ranks()[1].kill()
        else:
            os.killpg(one.pid, signal.SIGINT)
        said, wrong = one.communicate(timeout=200)
        assert one.returncode == (1 if name == "killed" else 130), wrong
        assert "Traceback" not in wrong
        assert f"rung resume {run_of(name).id}" in wrong, wrong
        again = rung("resume", run_of(name).id)
        assert again.wait(timeout=300) == 0, again.stderr.read()
        assert furthest(weights("both"), weights(name)) == 0
    assert not ranks()
