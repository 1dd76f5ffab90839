"""However a step is split, its gradient is that of the whole batch."""

from __future__ import annotations

import pytest
import torch

from rung.errors import TrainingStopped
from rung.train.gradient import Gradients, evaluate
from tests.train.conftest import rows


def gradients(work, max_tokens=10_000, notes=None, **kwargs):
    note = notes.append if notes is not None else lambda _: None
    parameters = work.adapter.trainable().parameters()
    return Gradients(work.passes, parameters, max_tokens, note, **kwargs)


@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "prefix_tuning", "last_layers", "full"])
@pytest.mark.parametrize("max_tokens", [1, 20, 45])
def test_accumulation_equals_the_full_batch(make_work, method, max_tokens):
    """FAULT 46."""
    work = make_work(method)
    whole = gradients(work).of(work.train[:9], 0)
    parts = gradients(work, max_tokens).of(work.train[:9], 0)
    assert parts.metrics == pytest.approx(whole.metrics, abs=1e-6)
    for a, b in zip(parts.tensors, whole.tensors, strict=True):
        assert torch.allclose(a, b, atol=1e-6, rtol=1e-5)


def test_out_of_memory_splits_the_step(make_work, monkeypatch):
    """FAULT 45: the gradient is the same, and the log says what happened."""
    work = make_work()
    whole = gradients(work).of(work.train[:8], 0)
    forward = work.bank.forward

    def small(trie, **options):
        if len(trie) > 30:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 TB")
        return forward(trie, **options)

    monkeypatch.setattr(work.bank, "forward", small)
    notes: list[str] = []
    limited = gradients(work, notes=notes)
    parts = limited.of(work.train[:8], 0)
    for a, b in zip(parts.tensors, whole.tensors, strict=True):
        assert torch.allclose(a, b, atol=1e-6, rtol=1e-5)
    assert notes and "out of memory" in notes[0] and "same gradient" in notes[0]
    assert limited.max_tokens < 100  # the next step does not run into it again


def test_a_row_that_does_not_fit_alone_is_named(make_work, monkeypatch):
    work = make_work()

    def full(trie, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(work.bank, "forward", full)
    with pytest.raises(TrainingStopped, match="rows:1.*--max-length"):
        gradients(work).of(work.train[:1], 0)


def test_other_errors_are_not_taken_for_memory(make_work, monkeypatch):
    work = make_work()
    monkeypatch.setattr(
        work.bank, "forward", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("a bug"))
    )
    with pytest.raises(RuntimeError, match="a bug"):
        gradients(work).of(work.train[:2], 0)


def test_a_loss_that_is_not_finite_names_step_and_rows(make_work, monkeypatch):
    """FAULT 44."""
    work = make_work()
    forward = work.bank.forward
    guilty = tuple(work.train[2].ids.tolist())

    def poisoned(trie, **options):
        hidden = forward(trie, **options)
        if any(tuple(trie.ids[r].tolist()) == guilty[:-1] for r in trie.rows):  # the last is pruned
            return hidden * float("nan")
        return hidden

    monkeypatch.setattr(work.bank, "forward", poisoned)
    with pytest.raises(TrainingStopped, match="step 8, rows rows:3: "):
        gradients(work).of(work.train[:5], 7)


def test_a_stop_between_micro_batches_abandons_the_step(make_work):
    work = make_work()
    asked = iter([False, True])
    assert gradients(work, 1, stopping=lambda: next(asked)).of(work.train[:4], 0) is None


def test_float16_scales_the_loss_until_gradients_are_finite(make_work):
    work = make_work("prompt_tuning")
    exact = gradients(work).of(work.train[:4], 0)
    scaled = gradients(work)
    scaled.scale = 2.0**140  # overflows even float32
    found = scaled.of(work.train[:4], 0)
    assert scaled.scale < 2.0**128
    for a, b in zip(found.tensors, exact.tensors, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-7)


def test_evaluation_is_the_mean_over_tokens(make_work):
    work = make_work()
    found = evaluate(work.passes, rows(9), 30)
    expected = gradients(work).of(rows(9), 0).metrics["loss"]
    assert found["loss"] == pytest.approx(expected, abs=1e-5)
    assert 0 <= found["token_accuracy"] <= 1
    assert evaluate(work.passes, [], 30) == {}
