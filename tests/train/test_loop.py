"""The loop learns, stops, saves and resumes to the same bits."""

from __future__ import annotations

import json
import math

import pytest
import torch

from rung import objectives
from rung.artefacts import folders
from rung.errors import Interrupted, StoreError, TrainingStopped
from rung.train import checkpoint
from rung.train.knobs import TrainKnobs
from rung.train.observers import Observer
from rung.train.optim import Optimizer
from rung.train.sources import Shuffled

METHODS = ["lora", "prompt_tuning", "prefix_tuning", "last_layers", "full", "ia3"]


class Notes(Observer):
    def __init__(self):
        self.notes, self.losses, self.validations = [], [], []

    def step(self, event):
        self.losses.append(event.metrics["loss"])

    def validated(self, event):
        self.validations.append(event.value)

    def note(self, text):
        self.notes.append(text)


def weights(work):
    return {n: t.detach().clone() for n, t in work.adapter.parameters().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("method", METHODS)
def test_training_learns(make_work, method):
    # What stands in front of frozen weights has less to pull with, so it needs larger steps.
    in_front = method in ("prompt_tuning", "prefix_tuning")
    work = make_work(method, epochs=6.0, lr=0.1 if in_front else 1e-2)
    work.observer = Notes()
    state = work.run()
    assert state.step == 36 and state.tokens == 6 * sum(r.tokens for r in work.train)
    assert work.observer.losses[-1] < 0.9 * work.observer.losses[0]
    assert state.best_value == min(work.observer.validations) < state.first_value


VARIANTS = [{"dropout": 0.4}, {"lora_init": "pissa"}, {"dora": True, "dropout": 0.2}]


@pytest.mark.parametrize(
    ("method", "own"), [*((m, {}) for m in METHODS), *(("lora", v) for v in VARIANTS)]
)
def test_an_interrupted_run_ends_with_the_same_bits(make_work, method, own):
    whole = make_work(method, "whole", **own)
    whole.run()
    for stop_at in (1, 4, 11):
        work = make_work(method, f"cut{stop_at}", **own)
        steps = iter(range(100))
        work.stopping = lambda s=steps, n=stop_at: next(s) >= n
        with pytest.raises(Interrupted):
            work.run()
        again = make_work(method, f"cut{stop_at}", **own)
        state = again.run()
        assert state.step == 12
        assert equal(weights(again), weights(whole))
        log = [json.loads(x) for x in (again.folder / "log.jsonl").read_text().splitlines()]
        assert [e["step"] for e in log if "lr" in e] == list(range(1, 13))


def test_the_order_depends_on_seed_and_epoch_alone():
    source, other = Shuffled(range(10), 3, 0), Shuffled(range(10), 3, 1)
    epochs = [[i for s in range(e * 4, e * 4 + 4) for i in source.rows(s)] for e in range(3)]
    assert all(sorted(e) == list(range(10)) for e in epochs)
    assert epochs[0] != epochs[1] and source.rows(5) == Shuffled(range(10), 3, 0).rows(5)
    assert source.rows(0) != other.rows(0)
    assert source.steps(2.5, None) == 10 and source.steps(2.5, 7) == 7
    assert source.steps(0.01, None) == 1


def test_steps_that_epochs_do_not_reach_are_told(make_work):
    for steps, told in ((50, ["--epochs 2 ends at step 12 of 50: raise it for more"]), (12, [])):
        work = make_work("lora", f"steps{steps}", epochs=2.0, steps=steps)
        work.observer = Notes()
        assert work.run().step == 12
        assert [note for note in work.observer.notes if "--epochs" in note] == told


FILES = ["adapter.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_checkpoint_gives_way_to_the_one_before(make_work, name):
    """FAULT 42."""
    whole = make_work("lora", "whole")
    whole.run()
    work = make_work("lora", "run")
    steps = iter(range(100))
    work.stopping = lambda: next(steps) >= 7
    with pytest.raises(Interrupted):
        work.run()
    newest = checkpoint.steps(work.folder / "checkpoints")[-1]
    assert newest.name == "step-00000007"
    file = newest / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    again = make_work("lora", "run")
    again.observer = Notes()
    again.run()
    assert any("step-00000007 is damaged" in n and "one before" in n for n in again.observer.notes)
    assert equal(weights(again), weights(whole))


def test_a_full_disk_keeps_the_last_good_checkpoint(make_work, monkeypatch):
    """FAULT 43."""
    work = make_work("lora", "run")
    kept = folders.shutil.disk_usage

    def full(path):
        return (
            kept(path)._replace(free=10)
            if checkpoint.steps(work.folder / "checkpoints")
            else kept(path)
        )

    monkeypatch.setattr(folders.shutil, "disk_usage", full)
    with pytest.raises(StoreError, match=r"needs at least \d+ bytes"):
        work.run()
    found, damaged = checkpoint.newest(work.folder / "checkpoints")
    assert found.state.step == 3 and not damaged


def test_a_poisoned_run_keeps_its_last_good_weights(make_work, monkeypatch):
    """FAULT 44."""
    work = make_work("lora", "run", save_every=100)
    trainer = work.trainer()
    original = trainer.gradients.of

    def poisoned(rows, step):
        if step == 5:
            raise TrainingStopped("the loss or its gradient is not finite at step 6")
        return original(rows, step)

    monkeypatch.setattr(trainer.gradients, "of", poisoned)
    with pytest.raises(TrainingStopped, match="step 6"):
        trainer.run()
    found, _ = checkpoint.newest(work.folder / "checkpoints")
    assert found.state.step == 5
    assert all(bool(t.isfinite().all()) for t in found.adapter.values())


def test_training_stops_early_and_takes_the_best_weights(make_work):
    work = make_work("lora", lr=1.0, epochs=20.0, eval_every=1, patience=3, schedule="constant")
    work.observer = Notes()
    state = work.run()
    assert state.step < 120 and any("stopped early" in n for n in work.observer.notes)
    assert state.step == state.best_step + 3
    trainer = work.trainer()
    found = trainer.evaluate(work.prepared.rows["validation"], trainer.slot)
    assert found["loss"] == pytest.approx(state.best_value, abs=1e-6)


def test_only_two_checkpoints_are_kept(make_work):
    work = make_work("lora", "run", save_every=1)
    work.run()
    assert len(checkpoint.steps(work.folder / "checkpoints")) == 2


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules(schedule):
    knobs = TrainKnobs(lr=1.0, schedule=schedule, warmup=0.2)
    optimizer = Optimizer({"x": torch.zeros(2, requires_grad=True)}, knobs, 10)
    rates = [optimizer.rate(s) for s in range(10)]
    assert rates[0] == 0.5 and rates[1] == 1.0 and max(rates) == 1.0
    assert (rates[-1] == 1.0) == (schedule == "constant")
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_adamw_equals_torchs_with_clipping():
    knobs = TrainKnobs(lr=0.1, schedule="constant", warmup=0, weight_decay=0.1, clip=0.5)
    ours = torch.ones(3, requires_grad=True)
    theirs = torch.ones(3, requires_grad=True)
    optimizer = Optimizer({"x": ours}, knobs, 5)
    reference = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.1)
    for step in range(5):
        gradient = torch.tensor([1.0, -2.0, 3.0]) * (step + 1)
        optimizer.step(step, [gradient.clone()])
        theirs.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_([theirs], 0.5)
        reference.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_validation_that_is_no_number_is_never_the_best():
    objective = objectives.get("sft")
    assert objective.best[1] == "low" and objective.better(2.0, None)
    assert not objective.better(math.nan, None) and not objective.better(math.nan, 2.0)
    assert objective.better(2.0, math.nan)
