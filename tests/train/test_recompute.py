"""Activations that are computed again: the same weights to the bit, and less that is kept."""

from __future__ import annotations

import pytest
import torch

from rung.errors import TrainingStopped
from rung.train import estimate
from rung.train.gradient import Gradients

METHODS = ["lora", "prompt_tuning", "prefix_tuning", "last_layers", "full", "ia3"]
VARIANTS = [("lora", {"dropout": 0.4}), ("lora", {"dora": True, "dropout": 0.2})]


def weights(work):
    return {n: t.detach().clone() for n, t in work.adapter.parameters().items()}


@pytest.mark.parametrize(("method", "own"), [*((m, {}) for m in METHODS), *VARIANTS])
def test_training_ends_with_the_same_bits(make_work, method, own):
    kept, again = (make_work(method, recompute=how, **own) for how in ("off", "on"))
    kept.run()
    seen = []
    again.stopping = lambda: bool(seen.append(again.bank.recomputes))
    again.run()
    assert all(seen) and not again.bank.recomputes, "the bank is as it was"
    ends = weights(kept), weights(again)
    assert ends[0].keys() == ends[1].keys() and len(ends[0]) > 0
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def kept_bytes(work) -> int:
    """What autograd keeps of one pass, weights aside."""
    parameters = {p.untyped_storage().data_ptr() for p in work.bank.model.parameters()}
    held: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    work.slot  # noqa: B018  (makes the adapter resident)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = work.passes.loss(work.train[:4]).total  # alive until all is counted
    assert loss.requires_grad
    return sum(held.values())


def test_less_is_kept(make_work):
    work = make_work("lora")
    work.adapter.trainable()
    kept_bytes(work)  # what is tried once for each base keeps things too
    whole = kept_bytes(work)
    work.bank.recompute(True)
    assert kept_bytes(work) < 0.5 * whole
    work.bank.recompute(False)
    assert kept_bytes(work) == whole


def test_a_row_that_does_not_fit_is_tried_again_with_less_kept(make_work, monkeypatch):
    work, notes = make_work("lora"), []
    work.adapter.trainable()
    gradients = Gradients(work.passes, work.adapter.parameters(), 10_000, notes.append)
    expected = gradients.of(work.train[:1], 0)
    own = Gradients._micro

    def small(self, rows, weight):
        if not self.passes.bank.recomputes:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(self, rows, weight)

    monkeypatch.setattr(Gradients, "_micro", small)
    found = gradients.of(work.train[:1], 0)
    assert all(torch.equal(a, b) for a, b in zip(found.tensors, expected.tensors, strict=True))
    assert len(notes) == 1 and "--recompute on" in notes[0]

    def never(self, rows, weight):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Gradients, "_micro", never)
    with pytest.raises(TrainingStopped, match="out of memory on a single row"):
        gradients.of(work.train[:1], 0)


def test_auto_computes_again_only_what_would_not_fit(make_work, monkeypatch):
    work = make_work("lora")
    rows, knobs = work.train, work.plan.train
    longest = max(row.tokens for row in rows) * estimate.token_bytes(work.bank)
    optimizer = work.adapter.size * estimate.trained_bytes(knobs)

    def guess(free: float, how: str = "auto"):
        monkeypatch.setattr(estimate, "free_bytes", lambda where: int(free))
        knobs.recompute = how
        return estimate.of(work.bank, work.adapter.size, rows, knobs, 0)

    knobs.max_tokens = None
    assert not guess(2 * longest / estimate.SHARE + optimizer).recomputes
    assert guess(0.5 * longest / estimate.SHARE + optimizer).recomputes
    assert guess(1e12, "on").recomputes and not guess(0.0, "off").recomputes
    assert guess(1e12, "on").bytes < guess(1e12, "off").bytes


def test_moments_in_8_bits_take_a_quarter(make_work):
    work = make_work("full")
    knobs, size, found = work.plan.train, work.adapter.size, {}
    for knobs.optimizer in ("adamw", "adamw8bit"):
        found[knobs.optimizer] = estimate.of(work.bank, size, work.train[:1], knobs, 0).bytes
    saved = (found["adamw"] - found["adamw8bit"]) / size
    assert saved == pytest.approx(6 - 8 / 256, rel=1e-3)
