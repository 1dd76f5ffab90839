"""What tuning, resuming and exporting leave alone: models, checkpoints, the cause of a fault."""

from __future__ import annotations

import errno
import json
import signal

import pytest

from rung.artefacts import folders
from rung.errors import ConfigError, DataError, Interrupted, StoreError
from rung.exports import merged
from rung.exports.export import export
from rung.store import Store
from rung.store.runs import Runs
from rung.train import job
from rung.train.job import resume, tune
from rung.train.observers import Observer
from tests.train.test_job import plan


def stopped(name, quotes, **settings):
    """The id of a run that was interrupted behind its first step."""

    class Stops(Observer):
        def step(self, event):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted) as told:
        tune(plan(name, quotes, method="lora", **settings), Stops())
    return told.value.args[0]


def weights(name):
    return (folders.model_folder(name) / "adapter_model.safetensors").read_bytes()


def test_a_run_does_not_take_the_place_of_a_model_made_since(rung_home, quotes):
    run = stopped("coach", quotes, seed=1)
    tune(plan("coach", quotes, method="lora", seed=2))
    newer = weights("coach")
    with pytest.raises(ConfigError, match=f"rung resume {run} --replace"):
        resume(run)
    assert weights("coach") == newer and Store.open().runs.get(run).status == "interrupted"
    assert resume(run, replace=True).model.run == run and weights("coach") != newer
    # Of two that make a model of one name at once the second to end is not kept in silence.
    meanwhile = []

    class Other(Observer):
        def step(self, event):
            if not meanwhile:
                meanwhile.append(1)
                tune(plan("kid", quotes, method="lora"))

    with pytest.raises(ConfigError, match="made since run kid-.* began"):
        tune(plan("kid", quotes, method="lora", seed=3), Other())


def test_a_run_whose_base_changed_is_not_resumed(rung_home, quotes, tmp_path):
    from tests.server.shop import base_folder

    base = base_folder(tmp_path / "base", seed=0)
    run = stopped("coach", quotes, base=str(base))
    base_folder(base, seed=1)
    with pytest.raises(DataError, match="the base of run .* has changed"):
        resume(run)


def test_checkpoints_of_what_is_kept_are_gone_and_those_of_what_was_stopped_stay(rung_home, quotes):
    run = stopped("coach", quotes)
    folder = rung_home / "runs" / run
    assert list((folder / "checkpoints").iterdir())
    resume(run)
    assert not (folder / "checkpoints").exists() and (folder / "log.jsonl").exists()


def test_a_test_figure_that_is_no_number_leaves_the_model(rung_home, quotes, monkeypatch):
    real = job.figures

    def broken(*given):
        return {**real(*given), "test_loss": float("nan")}

    monkeypatch.setattr(job, "figures", broken)
    outcome = tune(plan("coach", quotes, method="lora"))
    store = Store.open()
    assert store.runs.get(outcome.run).status == "succeeded"
    assert "test_loss" not in {e.metric for e in store.evaluations.list(model="coach")}


def test_a_store_that_is_away_does_not_hide_what_went_wrong(rung_home, quotes, monkeypatch):
    def away(*given, **values):
        raise StoreError("the store is locked")

    class Stops(Observer):
        def step(self, event):
            monkeypatch.setattr(Runs, "update", away)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        tune(plan("coach", quotes, method="lora"), Stops())


def test_a_head_that_an_export_would_lose_is_told(rung_home, quotes, tmp_path):
    rows = [{"prompt": f"Say {n}", "chosen": f"It is {n}.", "rejected": "No."} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    tune(plan("judge", tmp_path / "pairs.jsonl", method="lora", objective="reward"))
    for to in ("merged", "gguf", "gguf-lora", "ollama"):
        with pytest.raises(ConfigError, match="would leave out the head of 'judge': use --to peft"):
            export("judge", tmp_path / to, to)
        assert not (tmp_path / to).exists()
    export("judge", tmp_path / "peft", "peft")


def test_a_full_disk_is_told_by_an_export_and_leaves_nothing(rung_home, quotes, tmp_path, monkeypatch):
    tune(plan("coach", quotes, method="lora"))
    left = tmp_path / ".out.new-0badcafe"  # of an export that was killed
    left.mkdir()

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="no space left to write"):
        patch.setattr(merged.Export, "write", full)
        export("coach", tmp_path / "out", "merged")
    assert {p.name for p in tmp_path.iterdir()} & {"out", left.name} == set()
    assert not list(tmp_path.glob(".out.*"))
