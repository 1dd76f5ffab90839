"""Training from kept states gives what training through the whole base gives."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from rung import objectives
from rung.errors import Interrupted
from rung.forward import feature_cache, last_layer
from rung.forward.bank import Bank
from rung.forward.features import Boundary
from rung.train import frozen, loop
from rung.train.gradient import Gradients, Passes, evaluate
from rung.train.sources import Shuffled
from tests.models import tiny_adapter, tiny_model
from tests.train.conftest import row_of, rows


def boundary_of(work):
    layer = work.bank.frozen_below(work.adapter)
    sequences = [s for r in work.train for s in r.sequences]
    return kept_states(work.bank, layer, sequences)


def kept_states(bank, layer, sequences):
    boundary = Boundary(bank, layer)
    assert Boundary.possible(bank, layer) and boundary.add(sequences)
    return boundary


def gradients(bank, slot, adapter, max_tokens=10_000, boundary=None):
    passes = Passes(bank=bank, objective=objectives.get("sft"), slot=slot, boundary=boundary)
    parameters = adapter.trainable().parameters()
    return Gradients(passes, parameters, max_tokens, lambda _: None)


def only_the_last(data, predicted):
    """Rows of which one token is predicted, the last but `predicted`."""
    return [row_of(r.ids, [i == len(r.ids) - 1 - predicted for i in range(len(r.ids))]) for r in data]


def close(a, b, tolerance=1e-5):
    return float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gemma3", "gpt2", "gpt_neox", "opt"])
@pytest.mark.parametrize("max_tokens", [20, 10_000])
@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_are_those_of_the_whole_pass(family, max_tokens, layers):
    bank = Bank(tiny_model(family))
    adapter = tiny_adapter(bank, "last_layers", layers=layers)
    slot, data = bank.add(adapter), rows(9)
    sequences = [s for r in data for s in r.sequences]
    boundary = kept_states(bank, bank.frozen_below(adapter), sequences)
    assert boundary.layer == 3 - layers
    whole = gradients(bank, slot, adapter).of(data, 0)
    found = gradients(bank, slot, adapter, max_tokens, boundary).of(data, 0)
    assert found.metrics == pytest.approx(whole.metrics, abs=1e-5)
    assert all(close(a, b) for a, b in zip(found.tensors, whole.tensors, strict=True))


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"targets": ["attention"]}])
def test_so_are_those_of_lora_in_the_upper_half(family, settings):
    bank = Bank(tiny_model(family))
    adapter = tiny_adapter(bank, "lora", adapted="upper", **settings)
    slot, data = bank.add(adapter), rows(9)
    every = tiny_adapter(bank, "lora", **settings)
    upper = tuple(f"{name}." for name in bank.layer_names[1:])  # of three
    assert set(adapter.linear) == {name for name in every.linear if name.startswith(upper)}
    boundary = kept_states(bank, bank.frozen_below(adapter), [s for r in data for s in r.sequences])
    assert boundary.layer == 1
    whole = gradients(bank, slot, adapter).of(data, 0)
    found = gradients(bank, slot, adapter, boundary=boundary).of(data, 0)
    assert found.metrics == pytest.approx(whole.metrics, abs=1e-5)
    assert all(close(a, b) for a, b in zip(found.tensors, whole.tensors, strict=True))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt2", "gpt_neox", "opt"])
@pytest.mark.parametrize("layers", [1, 2])
def test_where_few_tokens_are_read_the_last_layer_runs_for_them_alone(family, layers, monkeypatch):
    """Labels behind long prompts: same loss and gradient, and a feed-forward part for a token each."""
    bank = Bank(tiny_model(family))
    adapter = tiny_adapter(bank, "last_layers", layers=layers)
    slot = bank.add(adapter)
    data = only_the_last(rows(9), 1)
    data = [*data, data[1]]  # one twice
    sequences = [s for r in data for s in r.sequences]
    boundary = kept_states(bank, bank.frozen_below(adapter), sequences)
    with monkeypatch.context() as everywhere:
        everywhere.setattr(type(objectives.get("sft")), "reads_states", True)
        whole = gradients(bank, slot, adapter).of(data, 0)
    assert bank.layers.narrows
    wide = counted(monkeypatch)
    found = gradients(bank, slot, adapter, boundary=boundary).of(data, 0)
    assert wide == [len({r.key for r in data})]
    assert found.metrics == pytest.approx(whole.metrics, abs=1e-5)
    assert all(close(a, b) for a, b in zip(found.tensors, whole.tensors, strict=True))


def counted(monkeypatch):
    """For how many tokens the last layer runs alone, each time it does."""
    wide, run_at = [], last_layer.run_at
    monkeypatch.setattr(
        last_layer, "run_at", lambda bank, at, *rest: (wide.append(len(at)), run_at(bank, at, *rest))[1]
    )
    return wide


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "prefix_tuning", "full"])
def test_a_whole_pass_runs_the_last_layer_where_it_is_read(family, method, monkeypatch):
    bank = Bank(tiny_model(family))
    adapter = tiny_adapter(bank, method)
    slot = bank.add(adapter)
    data = only_the_last(rows(9), 1)
    with monkeypatch.context() as everywhere:
        everywhere.setattr(type(objectives.get("sft")), "reads_states", True)
        whole = gradients(bank, slot, adapter).of(data, 0)
    assert bank.layers.narrows
    wide = counted(monkeypatch)
    found = gradients(bank, slot, adapter).of(data, 0)
    # What stands in front of every layer's keys is not in the row that the last layer picks from.
    assert wide == ([] if method == "prefix_tuning" else [len({r.key for r in data})])
    assert found.metrics == pytest.approx(whole.metrics, abs=1e-5)
    assert all(close(a, b) for a, b in zip(found.tensors, whole.tensors, strict=True))


def test_soft_capped_scores_run_the_last_layer_for_all():
    assert not Bank(tiny_model("gemma2")).layers.narrows


def test_lora_on_top_layers_starts_there_too(make_work):
    work = make_work("last_layers")
    bank = work.bank
    targets = [n for n in tiny_adapter(bank, "lora").linear if n.startswith(bank.layers.names[2])]
    adapter = tiny_adapter(bank, "lora", targets=targets)
    slot = bank.add(adapter)
    sequences = [s for r in work.train for s in r.sequences]
    boundary = kept_states(bank, bank.frozen_below(adapter), sequences)
    assert boundary.layer == 2
    whole = gradients(bank, slot, adapter).of(work.train, 0)
    found = gradients(bank, slot, adapter, boundary=boundary).of(work.train, 0)
    assert all(close(a, b) for a, b in zip(found.tensors, whole.tensors, strict=True))


def test_the_frozen_layers_run_once_in_a_whole_training(make_work, monkeypatch):
    work = make_work("last_layers")
    assert work.bank.layers.starts  # its probe runs the layers too, and so does the next one
    assert work.bank.uncalled is not None
    work.bank.__dict__["inference"] = None  # by the base's own layers, which can be counted
    assert work.bank.frozen_below(work.adapter) == 1
    ran = []
    first = work.bank.layers.layers[0]
    own = first.forward
    monkeypatch.setattr(first, "forward", lambda *a, **k: (ran.append(1), own(*a, **k))[1])
    state = work.run()
    assert state.step == 12 and len(state.history) > 1
    assert len(ran) == 2  # for the rows that are measured, and for those that are learnt


@pytest.mark.parametrize("method", ["lora", "prompt_tuning", "full"])
def test_what_changes_at_the_bottom_goes_through_the_whole_base(make_work, method):
    trainer = make_work(method).trainer()
    trainer.run()
    assert trainer.gradients.passes.boundary is None


def test_a_training_ends_with_the_weights_of_one_without_kept_states(make_work, monkeypatch):
    kept = make_work("last_layers")
    trainer = kept.trainer()
    state = trainer.run()
    assert trainer.gradients.passes.boundary is not None
    monkeypatch.setattr(loop, "MIN_FROZEN_SHARE", 2.0)
    plain = make_work("last_layers")
    reference = plain.run()
    assert state.best_value == pytest.approx(reference.best_value, abs=1e-4)
    assert state.first_value == pytest.approx(reference.first_value, abs=1e-5)
    ours, theirs = kept.adapter.parameters(), plain.adapter.parameters()
    assert all(torch.allclose(ours[n], theirs[n], atol=1e-3) for n in ours)


@pytest.fixture
def kept_work(make_work, monkeypatch, tmp_path):
    """Work whose frozen part is kept in an empty cache."""
    monkeypatch.setattr(feature_cache, "folder", lambda name: tmp_path / name)

    def work(folder, **settings):
        made = make_work("last_layers", folder, **settings)
        made.bank.digest = "a base"
        return made

    return work


def windows_of(monkeypatch, tokens, alike=0.0):
    monkeypatch.setattr(frozen, "WINDOW_TOKENS", tokens)
    monkeypatch.setattr(frozen, "WINDOW_BEGINNINGS", 0)
    monkeypatch.setattr(frozen, "ALIKE", alike)


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize(
    ("window", "alike", "files"), [(frozen.WINDOW_TOKENS, 0.0, 2), (1, 0.0, 7), (1, 1e9, 3)]
)
@pytest.mark.parametrize("step", [2, 8])  # in the first epoch, and in the second
def test_a_resumed_run_is_equal_to_the_bit(
    kept_work, monkeypatch, tmp_path, forgotten, window, alike, files, step
):
    """FAULT 41, also where the kept states are gone by then."""
    windows_of(monkeypatch, window, alike)
    work = kept_work
    whole = work("whole")
    whole.run()
    stopped = work("stopped")
    with stopped.trainer() as trainer:
        trainer.stopping = trainer.within = trainer.gradients.stopping = lambda: (
            trainer.state.step >= step
        )
        with pytest.raises(Interrupted):
            trainer.run()
    kept = list((tmp_path / "cache" / "features").glob("*.safetensors"))
    assert len(kept) == files and trainer.state.step == step  # both runs share them
    for file in kept if forgotten else ():
        file.unlink()
    again = work("stopped")
    state = again.run()
    assert state.step == 12
    ours, theirs = again.adapter.parameters(), whole.adapter.parameters()
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)


def test_a_short_run_computes_only_the_rows_it_uses(make_work):
    work = make_work("last_layers", steps=1)
    work.prepared.rows["validation"] = []
    trainer = work.trainer()
    trainer.run()
    assert len(trainer.gradients.passes.boundary.nodes) <= 4


def test_a_run_whose_time_is_over_has_learnt_from_what_was_computed(make_work, monkeypatch):
    """In place of all the frozen part, for which the time may not do, and a single step."""
    windows_of(monkeypatch, 1, alike=1e9)
    work = make_work("last_layers", seconds=1e-9)
    trainer = work.trainer()
    assert trainer.run().step == 1
    assert len(trainer.gradients.passes.boundary.nodes) <= 4 + 6  # of a step, and those measured


def test_a_longer_run_finds_what_a_shorter_one_computed(kept_work, monkeypatch):
    windows_of(monkeypatch, 1)
    kept_work("short", steps=4).run()
    with feature_cache.spared() as spared:
        kept_work("long").run()
    assert len(set(spared.found) - spared.made) == 1 + 4 and len(spared.made) == 2


def test_steps_are_computed_together_up_to_so_many_tokens(make_work, monkeypatch):
    """Without what all rows begin with, whatever the number of steps."""
    work = make_work("last_layers")
    assert frozen.Windows.of(work.source, 6).take(0).end == 6
    begins = os.path.commonprefix([list(r.ids) for r in work.train])
    per_step = [sum(r.tokens - len(begins) for r in work.source.rows(step)) for step in range(6)]
    windows_of(monkeypatch, sum(per_step[:2]))
    short, whole = (frozen.Windows.of(work.source, steps) for steps in (2, 6))
    first = whole.take(0)
    assert first.end == 2 and short.take(0) == first and whole.take(2).end > 2
    assert [r.key for r in first.rows] == sorted(r.key for s in (0, 1) for r in work.source.rows(s))


APART, AT_ONCE = [2, 4, 6, 8], [2, 16]


@pytest.mark.parametrize(
    ("left", "training", "ends"),
    [(float("inf"), 0.0, AT_ONCE), (100.0, 0.0, AT_ONCE), (10.0, 0.0, APART), (100.0, 9.0, APART)],
)
@pytest.mark.parametrize("alike", [True, False])
def test_rows_that_begin_alike_are_computed_together_if_more_steps_fit(
    monkeypatch, alike, left, training, ends
):
    """Steps of two rows of 40 tokens; of those that are alike half a row is one of two beginnings.

    A step takes 2 seconds to compute by windows, all that is left 20.
    """
    draw = np.random.default_rng(0)
    beginnings = draw.integers(0, 99, (2, 20))

    def ids(i):
        begun = beginnings[i % 2] if alike else draw.integers(0, 99, 20)
        return np.concatenate([begun, draw.integers(0, 99, 20)])

    windows_of(monkeypatch, 160, frozen.ALIKE)
    source = Shuffled([row_of(ids(i).tolist(), [True] * 40) for i in range(32)], 2, seed=0)
    computed = []

    class Counted(Boundary):
        def add(self, sequences, *_):
            computed.append(len(sequences))
            return True

        def seconds_of(self, tokens):
            return 4.0 * tokens / states._windows.first.computed

    states = frozen.Frozen(Counted(None, 1), source, 16, print, lambda: False, lambda: left)
    for step in range(8):
        states._training, states._trained = training * step, step
        states._returned = None
        states.reach(step)
    wanted = np.diff([0, *(ends if alike else [2, 4, 6, 8])])
    assert computed == [2 * n for n in wanted]


def test_rows_that_are_not_kept_go_through_the_whole_base(make_work):
    work = make_work("last_layers")
    boundary = boundary_of(work)
    other = rows(5, seed=7)
    plain = evaluate(work.passes, other, 30)
    assert evaluate(replace(work.passes, boundary=boundary), other, 30) == plain


def test_an_interruption_before_the_first_step_leaves_nothing_half_done(make_work):
    work = make_work("last_layers", "run")
    work.stopping = lambda: True
    with pytest.raises(Interrupted):
        work.run()
    work.stopping = lambda: False
    assert work.run().step == 12
