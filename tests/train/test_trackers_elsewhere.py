"""MLflow and Weights & Biases, read back by their own readers; skipped where they are not installed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from rung import home, trackers
from rung.errors import ConfigError
from tests.methods.scripted import scripted
from tests.train.tracked import LOSSES, killed, run_of


def installed(name):
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


@pytest.fixture
def old_mlruns(rung_home, tmp_path, monkeypatch):
    """A folder in which MLflow has kept runs before, which it chooses and then refuses."""
    place = tmp_path / "work"
    (place / "mlruns" / "0").mkdir(parents=True)
    (place / "mlruns" / "0" / "meta.yaml").write_text("name: Default\nexperiment_id: '0'\n")
    monkeypatch.chdir(place)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return place


@installed("mlflow")
def test_mlflow_reads_what_was_told_beside_an_old_mlruns(old_mlruns, tmp_path):
    from mlflow import MlflowClient

    killed("mlflow", tmp_path / "run", RUNG_HOME=str(home.home()))
    client = MlflowClient(f"sqlite:///{home.home() / 'mlflow.db'}")
    place = client.get_experiment_by_name("rung").experiment_id
    (found,) = client.search_runs([place])
    assert found.info.status == "RUNNING" and found.data.metrics["train/loss"] == LOSSES[2]
    # The run that goes on tells of step 2 again.
    again = trackers.make("mlflow")
    again.open(run_of(tmp_path / "run", at=1))
    again.log(2, {"train/loss": 1.5, "validation/loss": 1.75})
    again.close("succeeded", {"test/loss": 1.25})
    (found,) = client.search_runs([place])
    assert found.info.run_name == "coach" and found.info.status == "FINISHED"
    assert found.data.params["lr"] == "0.1" and "parent" not in found.data.params
    assert found.data.tags["rung.base"] == "tiny" and found.data.tags["rung.run"] == "abc123"
    losses = client.get_metric_history(found.info.run_id, "train/loss")
    assert {(m.step, m.value) for m in losses} == set(LOSSES.items())
    assert found.data.metrics["test/loss"] == 1.25
    assert sorted(p.name for p in (old_mlruns / "mlruns").iterdir()) == ["0"]


PROJECT = {"id": "p", "name": "rung", "entity": {"id": "e", "name": "me"}}
BUCKET = {"id": "b", "name": "abc123", "displayName": "coach", "config": "{}", "project": PROJECT}
GRAPHQL = {
    "RunResumeStatus": {"model": {"bucket": None}},
    "UpsertBucket": {"upsertBucket": {"bucket": BUCKET, "inserted": True}},
    "CreateRunFiles": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}},
}


@contextlib.contextmanager
def wandb_server():
    """A server that takes a run as W&B's does; `.sent` gathers lines by file."""
    sent: dict[str, list] = {}

    def answer(path, body):
        for name, part in body.get("files", {}).items():
            sent.setdefault(name, []).extend(json.loads(line) for line in part["content"])
        return 200, {"data": GRAPHQL.get(body.get("operationName"), {})}

    with scripted(answer) as server:
        server.sent = sent
        yield server


def synced(folder):
    """The history and the summary that `wandb sync` sends of a run's folder."""
    with wandb_server() as server:
        environment = os.environ | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "a" * 40}
        for run in sorted((folder / "wandb").glob("offline-run-*")):
            command = [sys.executable, "-m", "wandb", "sync", "--yes", str(run)]
            subprocess.run(
                command, env=environment, check=True, timeout=120, capture_output=True, cwd=folder
            )
    history = {
        (row["_step"], name): value
        for row in server.sent["wandb-history.jsonl"]
        for name, value in row.items()
        if "/" in name
    }
    return history, server.sent["wandb-summary.json"][-1]


@pytest.fixture
def offline(rung_home, tmp_path, monkeypatch):
    """No key of W&B anywhere."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    return tmp_path / "run"


@installed("wandb")
def test_wandb_writes_offline_without_a_key_what_sync_sends_later(offline):
    tracker = trackers.make("wandb")
    tracker.open(run_of(offline))
    tracker.log(1, {"train/loss": 2.0})
    tracker.close("succeeded", {"test/loss": 1.25})
    history, summary = synced(offline)
    assert history == {(1, "train/loss"): 2.0, (1, "test/loss"): 1.25}
    assert summary["status"] == "succeeded"


@installed("wandb")
def test_what_wandb_was_told_before_a_kill_is_sent_too(offline):

    def seen():  # W&B writes in blocks, after a while
        return any(b"train/loss" in path.read_bytes() for path in offline.glob("wandb/*/*.wandb"))

    killed("wandb", offline, seen)
    again = trackers.make("wandb")
    again.open(run_of(offline, at=1))
    again.log(2, {"train/loss": 1.5})
    again.close("succeeded", {"test/loss": 1.25})
    history, summary = synced(offline)
    assert {key: value for key, value in history.items() if key[1] == "train/loss"} == {
        (step, "train/loss"): loss for step, loss in LOSSES.items()
    }
    assert history[2, "test/loss"] == 1.25 and summary["status"] == "succeeded"


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_the_package_that_is_missing_is_named(name, monkeypatch):
    monkeypatch.setattr(type(trackers.get(name)), "package", "not_there_at_all")
    with pytest.raises(ConfigError, match=rf"pip install 'rung\[{name}\]'"):
        trackers.make(name)
