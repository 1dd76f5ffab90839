"""Hidden states at every layer are the model's own, and a pass may start from them."""

from __future__ import annotations

import functools
import multiprocessing
import os
import time

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.errors import ConfigError, Interrupted
from rung.forward import feature_cache, features
from rung.forward.bank import Bank
from rung.forward.features import Boundary, Frame, pooled
from rung.forward.llama.inference import Layer
from rung.forward.trie import Sequence
from tests.models import FAMILIES, VOCABULARY, tiny_adapter, tiny_model

quick = settings(max_examples=10, deadline=None)
LAYERS = range(4)


@functools.cache
def bank_of(family: str) -> Bank:
    return Bank(tiny_model(family))


@functools.cache
def reference_of(family: str):
    model = tiny_model(family)
    model.set_attn_implementation("eager")
    return model


@st.composite
def batches(draw):
    """Sequences that begin alike, some of them twice."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    stem = torch.randint(3, VOCABULARY, (16,), generator=generator).tolist()
    found = []
    for _ in range(draw(st.integers(1, 5))):
        own = torch.randint(3, VOCABULARY, (draw(st.integers(1, 6)),), generator=generator).tolist()
        found.append(tuple(stem[: draw(st.integers(0, 16))] + own))
    return found + found[: draw(st.integers(0, 1))]


def theirs(family, ids):
    """transformers' own hidden states of one sequence, (layers + 1, n, d)."""
    with torch.no_grad():
        out = reference_of(family)(torch.tensor([ids]), output_hidden_states=True)
    return torch.cat(out.hidden_states)


def close(a, b, tolerance=1e-5):
    return float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
@quick
@given(batch=batches())
def test_states_at_every_layer_are_those_of_transformers(family, batch):
    bank = bank_of(family)
    assert (bank.inference is not None) == (family in ("llama", "qwen2"))
    trie = bank.trie([Sequence(ids) for ids in batch])
    with torch.no_grad():
        found = bank.states(trie, LAYERS)
    for ids, rows in zip(batch, trie.rows, strict=True):
        reference = theirs(family, ids)
        for layer in LAYERS:
            assert close(found[layer][rows], reference[layer]), layer


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "bloom"])
@quick
@given(batch=batches(), layer=st.sampled_from(LAYERS))
def test_a_pass_from_any_layer_ends_like_a_whole_one(family, batch, layer):
    bank = bank_of(family)
    assert bank.layers.starts, bank.layers.why_not
    trie = bank.trie([Sequence(ids) for ids in batch])
    with torch.no_grad():
        entering = bank.states(trie, {layer})[layer]
        found = bank.forward_from(layer, entering, trie)
        assert close(found, bank.forward(trie))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "bloom"])
def test_no_layer_above_the_last_wanted_one_is_run(family):
    bank = Bank(tiny_model(family))
    bank.inference = None  # the base's own layers
    trie = bank.trie([Sequence((5, 6, 7)), Sequence((5, 8))])
    with torch.no_grad():
        bank.states(trie, {1})  # the first time it may have to look how layers answer
    ran = []
    for at, layer in enumerate(bank.layers.layers):
        own = layer.forward
        layer.forward = lambda *a, at=at, own=own, **k: (ran.append(at), own(*a, **k))[1]
    with torch.no_grad():
        bank.states(trie, {1})
    assert ran == [0]
    with torch.no_grad():
        bank.forward(trie)
    assert ran == [0, 0, 1, 2]  # the layers have their own forward back


def test_llama_inference_runs_no_layer_above_the_last_wanted_one(monkeypatch):
    bank = Bank(tiny_model())
    assert bank.inference is not None
    own, groups = Layer.product, []
    monkeypatch.setattr(
        Layer, "product", lambda s, g, *a, **k: (groups.append(g), own(s, g, *a, **k))[1]
    )
    trie = bank.trie([Sequence((5, 6, 7)), Sequence((5, 8))])
    with torch.no_grad():
        assert set(bank.states(trie, {0, 2})) == {0, 2}
    assert groups == ["attention", "output", "gate", "down"] * 2


def test_a_base_that_cannot_start_says_why():
    bank = bank_of("bloom")
    assert not bank.layers.starts and "attention" in bank.layers.why_not
    assert not Boundary.possible(bank, 1) and Boundary.possible(Bank(tiny_model()), 1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt"])
def test_what_an_adapter_leaves_frozen(family):
    bank = Bank(tiny_model(family))

    def below(method, **settings):
        return bank.frozen_below(tiny_adapter(bank, method, **settings))

    assert below("last_layers", layers=1) == 2
    assert below("last_layers", layers=2) == 1
    assert [below(m) for m in ("lora", "full", "prompt_tuning", "prefix_tuning")] == [0, 0, 0, 0]
    top = next(n for n in tiny_adapter(bank, "lora").linear if n.startswith(bank.layer_names[2]))
    assert below("lora", targets=[top]) == 2


def test_the_norm_of_embeddings_is_no_final_norm():
    """BLOOM's stands in front of all layers: trained, nothing below it was frozen."""
    bank = bank_of("bloom")
    adapter = tiny_adapter(bank, "last_layers", layers=1)
    last = f"{bank.layer_names[-1]}."
    assert {n for n in adapter.weights if not n.startswith(last)} == {
        f"{bank.layer_names[0].partition('h.0')[0]}ln_f.{part}" for part in ("weight", "bias")
    }


# --- pooled features --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma3", "bloom"])
@quick
@given(batch=batches(), budget=st.integers(4, 60))
def test_pooled_features_are_means_of_states_however_passes_are_cut(family, batch, budget):
    frame = Frame.of(batch)
    kept, features.MAX_PASS_TOKENS = features.MAX_PASS_TOKENS, budget
    try:
        found = pooled(bank_of(family), batch, LAYERS, frame)
    finally:
        features.MAX_PASS_TOKENS = kept
    for i, ids in enumerate(batch):
        reference = theirs(family, ids)
        for layer in LAYERS:
            states = reference[layer]
            assert close(found[f"{layer}.last"][i], states[-1])
            assert close(found[f"{layer}.mean"][i], states.mean(0))
            assert close(found[f"{layer}.own"][i], states[frame.own(ids)].mean(0))


@given(batch=batches())
def test_a_frame_is_what_all_prompts_share(batch):
    frame = Frame.of(batch)
    for ids in batch:
        assert ids[: len(frame.prefix)] == frame.prefix
        assert ids[len(ids) - len(frame.suffix) :] == frame.suffix
        assert ids[frame.own(ids)]  # never nothing
    distinct = set(batch)
    if len(distinct) > 1:
        n = len(frame.prefix)
        assert len({ids[: n + 1] for ids in distinct}) > 1


def test_a_request_with_another_beginning_keeps_it_as_its_own():
    frame = Frame((1, 2, 3), (8, 9))
    assert frame.own((1, 2, 3, 5, 6, 8, 9)) == slice(3, 5)
    assert frame.own((1, 4, 5, 6, 8, 9)) == slice(1, 4)
    assert frame.own((1, 2, 3, 8, 9)) == slice(0, 5)


# --- what is kept on disk -----------------------------------------------------------------------------


@pytest.fixture
def kept_bank(rung_home, tmp_path, monkeypatch):
    """A bank whose features are kept in an empty cache."""
    monkeypatch.setattr(feature_cache, "folder", lambda name: tmp_path / name)
    monkeypatch.setattr(feature_cache, "SPARE", 0)
    bank = Bank(tiny_model())
    bank.digest = "a base"
    return bank


def states_of(bank, rows):
    boundary = Boundary(bank, 2)
    assert boundary.add(rows)
    return boundary.pieces[0]


def counted(bank, monkeypatch):
    """How often the base runs for its states, as a list that grows."""
    runs: list[int] = []
    own = bank.states
    monkeypatch.setattr(bank, "states", lambda *a, **k: (runs.append(1), own(*a, **k))[1])
    return runs


def files(tmp_path):
    return sorted((tmp_path / "cache" / "features").glob("*.safetensors"))


def test_what_is_kept_is_found_and_equal_to_the_bit(kept_bank, tmp_path, monkeypatch):
    prompts = [(5, 6, 7), (5, 6, 8, 9)]
    frame = Frame.of(prompts)
    first = {n: t.clone() for n, t in pooled(kept_bank, prompts, LAYERS, frame, keep=True).items()}
    assert len(files(tmp_path)) == 1
    runs = counted(kept_bank, monkeypatch)
    again = pooled(kept_bank, prompts, LAYERS, frame, keep=True)
    assert not runs and again.keys() == first.keys()
    assert all(torch.equal(first[n], again[n]) for n in first)
    pooled(kept_bank, [*prompts, (4, 4)], LAYERS, frame, keep=True)
    assert runs and len(files(tmp_path)) == 2


def test_what_was_found_is_counted_as_what_it_took(kept_bank):
    shapes = {"x": ((4, 8), torch.float32)}

    def fill(made):
        time.sleep(0.05)

    with feature_cache.spared() as first:
        for _ in range(2):  # made here, and found again: it was paid for
            feature_cache.keep("one", shapes, fill)
    assert first.seconds == 0
    with feature_cache.spared() as second:
        for name in ("one", "one", "two"):
            feature_cache.keep(name, shapes, fill)
    assert second.found["one"] == second.seconds >= 0.05
    with feature_cache.spared() as third, feature_cache.unused():
        feature_cache.keep("one", shapes, fill)
    assert third.seconds == 0


def test_another_base_precision_or_layer_is_another_key(kept_bank):
    key = feature_cache.key
    names = {key(kept_bank, "boundary", 1, "rows"), key(kept_bank, "boundary", 2, "rows")}
    kept_bank.digest = "another base"
    names.add(key(kept_bank, "boundary", 1, "rows"))
    half = Bank(tiny_model().to(torch.bfloat16))
    half.digest = "a base"
    names.add(key(half, "boundary", 1, "rows"))
    assert len(names) == 4
    kept_bank.digest = ""
    assert key(kept_bank, "boundary", 1, "rows") is None


def test_half_precision_is_kept_as_it_is(rung_home, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "folder", lambda name: tmp_path / name)
    bank = Bank(tiny_model().to(torch.bfloat16))
    bank.digest = "half"
    rows = [Sequence((5, 6, 7, 8), (False, True, True, True))]
    first = states_of(bank, rows).clone()
    assert first.dtype == torch.bfloat16
    assert torch.equal(states_of(bank, rows), first)


@pytest.mark.parametrize("damage", ["truncate", "header", "empty", "bit"])
def test_a_damaged_file_is_made_anew(kept_bank, tmp_path, damage):
    prompts = [(5, 6, 7), (5, 6, 8, 9)]
    first = pooled(kept_bank, prompts, [2], Frame(), keep=True)["2.mean"].clone()
    (path,) = files(tmp_path)
    content = path.read_bytes()
    spoilt = {
        "truncate": content[:-5],
        "header": b"\xff" * 8 + content[8:],
        "empty": b"",
        "bit": content[:-7] + bytes([content[-7] ^ 1]) + content[-6:],
    }
    path.write_bytes(spoilt[damage])
    assert torch.equal(pooled(kept_bank, prompts, [2], Frame(), keep=True)["2.mean"], first)
    header = 8 + int.from_bytes(content[:8], "little")  # which tells the time that it took
    again = path.read_bytes()
    assert again[header:] == content[header:] and len(again) == len(content)
    assert feature_cache.find(path.stem) is not None


def test_another_template_or_other_rows_are_another_key(kept_bank, tmp_path):
    """Both are in the tokens: whatever changes them is computed anew, whatever does not is shared."""
    texts = ["so it is", "not at all"]
    words = {w: 3 + i for i, w in enumerate(["<user>", "<ask>", "so", "it", "is", "not", "at", "all"])}

    def boundary(opening, texts):
        ids = [tuple(words[w] for w in f"{opening} {t}".split()) for t in texts]
        rows = [Sequence(i, (False,) * (len(i) - 1) + (True,)) for i in ids]
        return states_of(kept_bank, rows)

    for opening, chosen in (("<user>", texts), ("<ask>", texts), ("<user>", texts[:1])):
        boundary(opening, chosen)
    assert len(files(tmp_path)) == 3
    boundary("<user>", texts)
    assert len(files(tmp_path)) == 3


def _fill_slowly(folder, log):
    feature_cache.folder = lambda name: folder / name

    def fill(into):
        with log.open("a") as file:
            file.write("made\n")
        time.sleep(0.2)
        into["x"][:] = 3.0

    found = feature_cache.keep("shared", {"x": ((4, 8), torch.float32)}, fill)
    assert found is not None and bool((found["x"] == 3.0).all())


def test_processes_that_ask_at_once_share_what_one_makes(rung_home, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "SPARE", 0)
    log = tmp_path / "log.txt"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill_slowly, args=(tmp_path, log)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [w.exitcode for w in workers] == [0] * 4
    assert log.read_text() == "made\n"


def test_the_least_used_goes_first_when_room_is_short(kept_bank, tmp_path, monkeypatch):
    def ask(first):
        pooled(kept_bank, [(first, 6, 7)] * 400, [2], Frame(), keep=True)

    ask(5)
    (old,) = files(tmp_path)
    size = old.stat().st_size
    os.utime(old, (1, 1))
    monkeypatch.setenv(feature_cache.LIMIT, str(2.5 * size / 1e9))
    ask(6)
    ask(7)
    assert not old.exists() and len(files(tmp_path)) == 2


def test_without_room_nothing_is_kept_and_the_answer_is_the_same(kept_bank, tmp_path, monkeypatch):
    rows = [Sequence((5, 6, 7, 8), (False, True, True, True))]
    notes: list[str] = []
    kept = states_of(kept_bank, rows).clone()
    for path in files(tmp_path):
        path.unlink()
    monkeypatch.setattr(feature_cache, "SPARE", 1 << 60)
    found = Boundary(kept_bank, 2)
    assert found.add(rows, notes.append) and not files(tmp_path)
    assert torch.equal(found.pieces[0], kept)
    assert found.add([Sequence((6, 7), (False, True))], notes.append)
    assert len(notes) == 1 and "no room on disk" in notes[0]  # once, however much is added
    monkeypatch.setattr(feature_cache, "SHARE", 0.0)
    assert not found.add(rows, notes.append)


def test_what_is_held_already_takes_room(kept_bank, tmp_path, monkeypatch):
    """Pieces that are added one by one stay within what all features may take, on disk or in memory."""
    held, notes = Boundary(kept_bank, 2), []
    piece = [Sequence((5, *range(8 + 40 * i, 48 + 40 * i)), (False,) + (True,) * 40) for i in range(2)]
    size = 41 * kept_bank.width * 4
    monkeypatch.setenv(feature_cache.LIMIT, str(2.5 * size / 1e9))
    monkeypatch.setattr(feature_cache, "SHARE", 1.5 * size / psutil.virtual_memory().available)
    assert held.add(piece[:1], notes.append) and not notes
    monkeypatch.setenv(feature_cache.LIMIT, str(1.9 * size / 1e9))
    assert not held.add(piece[1:], notes.append) and "no room on disk" in notes[0]
    assert len(held.pieces) == 1 and len(files(tmp_path)) == 1


def test_a_disk_that_fills_up_is_no_fault(kept_bank, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    found = pooled(kept_bank, [(5, 6)], [2], Frame(), keep=True)
    assert found["2.last"].shape == (1, 32)
    assert not list((tmp_path / "cache" / "features").glob("*safetensors"))


def test_nothing_is_left_of_what_was_interrupted(kept_bank, tmp_path):
    with pytest.raises(Interrupted):
        pooled(kept_bank, [(5, 6)], [2], Frame(), keep=True, stopping=lambda: True)
    assert not [p for p in (tmp_path / "cache" / "features").iterdir() if p.suffix != ".lock"]


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_is_named(monkeypatch, text):
    monkeypatch.setenv(feature_cache.LIMIT, text)
    with pytest.raises(ConfigError, match="RUNG_FEATURES_GB"):
        feature_cache.limit()
