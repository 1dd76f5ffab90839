"""`rung status` lists what runs, and ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from rung.cli import app
from rung.errors import ConfigError
from rung.library.status import announced, cancel, under_way
from rung.store import Store


@pytest.fixture
def store(rung_home):
    with Store.open() as opened:
        yield opened


def a_run(store, **config):
    return store.runs.create("coach", "lora", config=config)


def test_a_training_is_listed_with_its_process_and_how_far_it_is(store, rung_home):
    run = a_run(store, steps=40)
    folder = rung_home / "runs" / run.id
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text('{"step": 6}\n{"step": 7, "loss": 1.5}\n')
    (work,) = under_way(store)
    assert (work.kind, work.name, work.what, work.pid) == ("training", run.id, "lora", os.getpid())
    assert work.progress == "step 7 of 40" and work.logs == str(folder) and work.user
    shown = CliRunner().invoke(app(["status"]), ["status", "--json"])
    assert json.loads(shown.stdout)[0]["name"] == run.id
    store.runs.update(run.id, status="succeeded")
    assert under_way(store) == []


def test_a_cancelled_training_learns_of_it_by_its_heartbeat(store):
    run = a_run(store)
    assert run.id in cancel(store, run.id[:12])
    assert store.runs.beat(run.id) == "cancelled"


def test_a_server_is_listed_while_it_serves(store, rung_home):
    with announced("http://127.0.0.1:8000", ["coach", "base"]):
        (work,) = under_way(store)
        assert (work.kind, work.what) == ("server", "http://127.0.0.1:8000")
        assert work.progress == "2 models"
    assert under_way(store) == []
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    with announced("http://127.0.0.1:8000", ["coach"]):
        (path,) = (rung_home / "servers").glob("*.json")
        said = json.loads(path.read_text()) | {"pid": int(gone.stdout)}
    path.write_text(json.dumps(said))
    assert under_way(store) == [], "a server that was killed is not listed"


def test_a_server_is_ended_by_sigterm(store):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("SIGTERM"))
    try:
        with announced("http://127.0.0.1:8000", ["coach"]):
            assert "finishes what it is answering" in cancel(store, f"server-{os.getpid()}")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == ["SIGTERM"]


def test_names_of_nothing_and_of_several_are_refused(store):
    with pytest.raises(ConfigError, match="nothing named 'coach' runs now"):
        cancel(store, "coach")
    first, second = a_run(store), a_run(store)
    with pytest.raises(ConfigError, match=f"{second.id}|{first.id}.* name one of them"):
        cancel(store, "coach")
