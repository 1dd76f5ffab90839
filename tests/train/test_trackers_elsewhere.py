"""MLflow and Weights & Biases, read back by their own readers; skipped where they are not installed."""

from __future__ import annotations

import importlib.util

import pytest

from rung import home, trackers
from rung.errors import ConfigError
from rung.trackers import TrackedRun


def installed(name):
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


def run_of(tmp_path, at=0):
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    settings = {"lr": 0.1, "base": "tiny", "method": "lora", "parent": None, "data": "rows.jsonl"}
    return TrackedRun(name="coach", id="abc123", folder=folder, settings=settings, at=at)


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

    tracker = trackers.make("mlflow")
    tracker.open(run_of(tmp_path))
    tracker.log(1, {"train/loss": 2.0})
    tracker.log(2, {"train/loss": 1.5, "validation/loss": 1.75})
    # Killed here; the run that goes on tells of step 2 again.
    again = trackers.make("mlflow")
    again.open(run_of(tmp_path, at=1))
    again.log(2, {"train/loss": 1.5})
    again.close("succeeded", {"test/loss": 1.25})
    client = MlflowClient(f"sqlite:///{home.home() / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("rung").experiment_id])
    assert found.info.run_name == "coach" and found.info.status == "FINISHED"
    assert found.data.params["lr"] == "0.1" and "parent" not in found.data.params
    assert found.data.tags["rung.base"] == "tiny" and found.data.tags["rung.run"] == "abc123"
    losses = client.get_metric_history(found.info.run_id, "train/loss")
    assert {(m.step, m.value) for m in losses} == {(1, 2.0), (2, 1.5)}
    assert found.data.metrics["test/loss"] == 1.25
    assert sorted(p.name for p in (old_mlruns / "mlruns").iterdir()) == ["0"]


@installed("wandb")
def test_wandb_writes_offline_without_a_key(rung_home, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    tracker = trackers.make("wandb")
    tracker.open(run_of(tmp_path))
    tracker.log(1, {"train/loss": 2.0})
    tracker.close("succeeded", {"test/loss": 1.25})
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    store = DataStore()
    store.open_for_scan(str(kept))
    figures = {}
    while (raw := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(raw)
        for item in record.history.item if record.HasField("history") else ():
            figures[item.key or "/".join(item.nested_key)] = item.value_json
    assert figures["train/loss"] == "2.0" and figures["test/loss"] == "1.25"


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_the_package_that_is_missing_is_named(name, monkeypatch):
    monkeypatch.setattr(type(trackers.get(name)), "package", "not_there_at_all")
    with pytest.raises(ConfigError, match=rf"pip install 'rung\[{name}\]'"):
        trackers.make(name)
