"""A climb on several workers finds what one does, and loses nothing when one of them dies."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from rung import home
from rung.errors import ConfigError, Interrupted, OutOfTime
from rung.ladder import parallel
from rung.ladder.arms import Arms
from rung.ladder.climb import climb, resume
from rung.ladder.cost import Cost
from rung.ladder.crew import Busy, Crew
from rung.ladder.forecast import Prediction
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.trial_worker import Answer, Order, TrialWorker, portable
from rung.launch import ray_cluster
from rung.store import Store
from rung.store.climbs import ClimbRecord
from tests.ladder.hill import SCRATCH, Log, rungs_of, settings, write_words
from tests.ladder.test_kills import table

ONLY = ["tfidf", "zero_shot", "linear_probe", "lora"]
SKIP = ["lora-upper", "lora-int8", "linear_probe-minilm"]
ORDER = {"zero_shot": 1.0, "linear_probe": 20.0, "lora": 200.0}


@pytest.fixture
def words(tmp_path: Path, rung_home: Path) -> Path:
    return write_words(tmp_path / "words.jsonl")


def begin(words: Path, name: str, log: Log | None = None, **more: Any) -> ClimbRecord:
    knobs = ClimbKnobs(
        **{"only": ONLY, "skip": SKIP, "all": True, "budget": "1h", "trials": 1, "requests": 10, **more}
    )
    return climb(name, settings(words, steps=8, batch_size=8), knobs, log or Log(), Store.open())


class CrewHere:
    """Workers of this process: an attempt is made when its answer is asked for, by default the last
    that was given.

    What it is told and answers goes through pickle, as between processes.

    Args:
        dies: whether the worker of an attempt dies before it has done anything.
    """

    next = -1

    def __init__(self, bench: Any, size: int, dies: Callable[[str], bool]):
        self.size, self.dies, self.busy = size, dies, {}
        self.worker = TrialWorker(pickle.loads(pickle.dumps(portable(bench))), 1)
        self.most, self.interrupted = 0, []

    @property
    def free(self) -> bool:
        return len(self.busy) < self.size

    def give(self, order: Order) -> None:
        self.busy[order.step.key] = pickle.dumps(order)
        self.most = max(self.most, len(self.busy))

    def ended(self) -> list[tuple[str, Answer | None]]:
        key = self.chosen()
        died, order = self.dies(key), self.busy.pop(key)
        if died:
            return [(key, None)]
        if key in self.interrupted:
            return [(key, Answer(stopped=True))]
        return [(key, pickle.loads(pickle.dumps(self.worker.attempt(pickle.loads(order)))))]

    def chosen(self) -> str:
        return list(self.busy)[self.next]

    def interrupt(self, key: str) -> None:
        self.interrupted.append(key)

    def stop(self, each: Callable[[str, Answer | None], None]) -> None:
        for key in list(self.busy):
            del self.busy[key]
            each(key, Answer(stopped=True))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Workers of this process in place of Ray's."""
    held: dict[str, Any] = {"dies": lambda key: False}

    @contextlib.contextmanager
    def crew(bench: Any, size: int, memory: int, cluster: str) -> Iterator[CrewHere]:
        assert memory > 1 << 20 and cluster == "local"
        held["crew"] = CrewHere(bench, size, held["dies"])
        yield held["crew"]

    monkeypatch.setattr(parallel, "crew", crew)
    monkeypatch.setattr(ray_cluster, "imported", lambda what, address: None)
    return held


@pytest.fixture
def ordered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say what rungs are predicted to take, so that they are tried in a known order."""

    def predict(self, key, level=None, params=()):
        seconds = ORDER.get(key, 0.01) * (level.share if level else 1.0)
        return Prediction(
            Cost(seconds=seconds, wall=seconds, bytes=1 << 30), steps=8, tokens=9, parameters=9
        )

    monkeypatch.setattr(Arms, "prediction", predict)


def test_three_at_a_time_find_what_one_after_another_does(words, here):
    one, three = begin(words, "one"), begin(words, "three", workers=3)
    assert here["crew"].most == 3
    with Store.open() as store:
        assert table(store, three.id) == table(store, one.id)
        assert all(r.status != "running" for r in store.runs.list())


def test_what_a_dead_worker_had_is_taken_up_by_another(words, here):
    lost = []

    def dies(key: str) -> bool:
        lost.append(key)
        return lost.count(key) == 1

    here["dies"] = dies
    log = Log()
    two = begin(words, "two", log, workers=2, only=["linear_probe", "lora"])
    assert sorted(log.tried()) == ["base"] * 2 + ["linear_probe"] * 2 + ["lora"] * 2
    assert [r.status for r in rungs_of(Store.open(), two.id).values()] == ["succeeded"] * 3


def test_a_rung_whose_workers_always_die_fails_and_the_others_go_on(words, here):
    here["dies"] = lambda key: key == "lora"
    two = begin(words, "two", workers=2, only=["linear_probe", "lora"])
    rungs = rungs_of(Store.open(), two.id)
    assert two.status == "succeeded" and rungs["linear_probe"].status == "succeeded"
    assert rungs["lora"].status == "failed"
    assert rungs["lora"].reason == "its worker died 3 times: lower --workers"


def test_an_attempt_is_stopped_when_a_cheaper_rung_clears_the_bar(words, here, ordered, monkeypatch):
    monkeypatch.setattr(CrewHere, "next", 0)  # the cheapest ends first
    only = ["zero_shot", "linear_probe", "lora"]
    two = begin(words, "two", workers=4, all=False, bar="accuracy=0.9", only=only)
    rungs = rungs_of(Store.open(), two.id)
    assert two.verdict["winner"] == "linear_probe"
    assert here["crew"].interrupted == ["lora"]
    assert rungs["lora"].status == "queued" and "now" not in rungs["lora"].trials


def test_a_fault_of_an_attempt_is_told_as_on_one_machine(words, here, monkeypatch):
    def attempt(self: TrialWorker, order: Order) -> Answer:
        return Answer(fault=OutOfTime("its time was over"))

    monkeypatch.setattr(TrialWorker, "attempt", attempt)
    rungs = rungs_of(Store.open(), begin(words, "two", workers=2).id)
    assert rungs["lora"].reason == "its time was over" and rungs["lora"].status == "cancelled"


def test_interrupted_it_goes_on_with_all_that_was_under_way(words, here):
    log = Log()

    def dies(key: str) -> bool:
        raise KeyboardInterrupt

    here["dies"] = dies
    with pytest.raises(Interrupted):
        begin(words, "two", log, workers=3)
    with Store.open() as store:
        under_way = [k for k, r in rungs_of(store, log.climb).items() if r.status == "interrupted"]
        assert len(under_way) == 3
        again = Log()
        done = resume(log.climb, again, store, changed={"workers": 1})  # a laptop goes on with it
        assert done.status == "succeeded"
        assert again.tried()[:3] == under_way
        assert all(r.status == "succeeded" for r in rungs_of(store, done.id).values())


class PlayedRay:
    """Ray where only some of what it was asked for has come; `come` may be added to."""

    def __init__(self) -> None:
        self.come: set[str] = set()

    def wait(self, asked: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        ready = [one for one in asked if one in self.come][:num_returns]
        return ready, [one for one in asked if one not in ready]


def test_a_place_whose_host_is_gone_gets_no_attempt_until_a_worker_answers_there():
    made, ray = object.__new__(Crew), PlayedRay()
    made.ray, made.busy = ray, {"lora": Busy(0, "answer")}
    made._workers = made._processes = {0: "first", 1: "second"}
    made._coming = {1}
    assert not made.free
    made.busy.clear()
    assert made._idle() == {0}
    made._coming = {0, 1}
    assert not made.free
    with pytest.raises(ray_cluster.ClusterError, match="all 2 workers are gone.*climb --resume"):
        made.wait()
    ray.come.add("second")
    made.wait()
    assert made._idle() == {1}


def test_without_ray_one_line_says_what_to_install(words, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--workers 2 needs Ray.*pip install 'rung\[cluster\]'"):
        begin(words, "two", workers=2)
    assert Store.open().climbs.list() == []


def test_an_address_that_is_none_is_refused(words):
    with pytest.raises(ConfigError, match="--cluster is 'ray://': say local, or ray://HOST:10001"):
        begin(words, "two", workers=2, cluster="ray://")


def test_a_token_is_sent_to_a_cluster_that_is_joined_and_not_asked_of_a_ray_of_this_machine(
    tmp_path, monkeypatch
):
    """Ray 2.60 leaves a token at home with its first start. A process that has imported `ray` before it
    is told to want one sends none, so that each later Ray of this machine refused it."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())
    monkeypatch.setenv("RAY_AUTH_MODE", "")  # so that it is put back afterwards
    monkeypatch.delenv("RAY_AUTH_MODE")
    ray_cluster.imported("--workers 2", "local")
    assert "RAY_AUTH_MODE" not in os.environ
    ray_cluster.imported("--workers 2", "ray://host:10001")
    assert os.environ["RAY_AUTH_MODE"] == "token"


# --- with Ray ---------------------------------------------------------------------------------------


@pytest.fixture
def ray() -> None:
    pytest.importorskip("ray", reason="the extra 'cluster' is not installed")


@pytest.mark.slow
def test_two_workers_of_ray_find_what_one_does(words, ray):
    one, two = begin(words, "one"), begin(words, "two", workers=2)
    with Store.open() as store:
        assert table(store, two.id) == table(store, one.id)
        runs = [r for r in store.runs.list() if r.started >= two.started]
        # The controller kept the baseline; each of two workers made something.
        assert len({r.pid for r in runs}) == 3


def command(*arguments: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rung.cli", "climb", *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def workers_of(climb: ClimbRecord) -> set[int]:
    """Processes that make an attempt now, the climb's own apart."""
    runs = Store.open().runs.list(status="running")
    return {r.pid for r in runs if r.started >= climb.started} - {climb.pid}


def until_found(look: Callable[[], Any], seconds: float = 240) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.1)
    raise AssertionError("nothing came of it")


def ended(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    _, said = process.communicate(timeout=400)
    return said


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_killed_workers_and_a_killed_controller_lose_nothing(words, ray):
    flags = [words, "--base", SCRATCH, "--dtype", "float32", "--device", "cpu", "--steps", "150",
             "--batch-size", "8", "--validation", "0.2", "--test", "0.2", "--all", "--budget", "1h",
             "--trials", "1", "--requests", "10", "--only", "lora", "--only", "prompt_tuning",
             "--only", "tfidf", "--skip", "lora-upper,lora-int8",
             "--report", words.parent / "r.html"]  # fmt: skip
    alone = command(*flags, "--name", "one")
    said = ended(alone)
    assert alone.returncode == 0, said
    one = Store.open().climbs.list()[0]

    process = command(*flags, "--name", "two", "--workers", "2")
    two = until_found(lambda: next((c for c in Store.open().climbs.list() if c.name == "two"), None))
    os.kill(next(iter(until_found(lambda: workers_of(two)))), signal.SIGKILL)
    until_found(lambda: any(r.status == "interrupted" for r in Store.open().runs.list()))
    left = until_found(lambda: workers_of(two))
    process.kill()
    process.communicate()
    until_found(lambda: not any(map(psutil.pid_exists, left)), 60)  # its Ray ends with it

    process = command("--resume", two.id, "--report", words.parent / "r.html")
    said = ended(process)
    assert process.returncode == 0, said
    with Store.open() as store:
        assert table(store, two.id) == table(store, one.id)
        for key, rung in rungs_of(store, two.id).items():
            assert len(rung.trials["done"]) == len(rungs_of(store, one.id)[key].trials["done"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_stops_workers_too(words, ray):
    flags = [words, "--base", SCRATCH, "--dtype", "float32", "--device", "cpu", "--epochs", "400",
             "--batch-size", "64", "--all", "--budget", "1h", "--requests", "10", "--only", "lora",
             "--skip", "lora-upper,lora-int8", "--report", words.parent / "r.html", "--name", "two",
             "--workers", "2"]  # fmt: skip
    process = command(*flags)
    two = until_found(lambda: next(iter(Store.open().climbs.list()), None))
    at = home.folder("runs")
    # The first attempts are over before a signal arrives.
    logs = lambda: [p for p in at.glob("two-lora*/log.jsonl") if p.stat().st_size > 2000]  # noqa: E731
    until_found(lambda: len(logs()) > 2)
    left = workers_of(two)
    process.send_signal(signal.SIGINT)
    said = ended(process)
    assert process.returncode == 130 and f"rung climb --resume {two.id}" in said
    with Store.open() as store:
        assert store.climbs.get(two.id).status == "interrupted"
        (run,) = [r for r in store.runs.list() if r.status == "interrupted"]
        assert list((at / run.id).glob("checkpoint*")), "where it stopped is kept"
    assert left and not any(map(psutil.pid_exists, left))
