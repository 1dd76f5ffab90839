"""The probe: a base answers as transformers does, alone and beside others, or it is refused."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.tiny_architectures import model_of
from rung.errors import ArtefactError, MethodMisfit
from rung.forward import probe
from rung.forward.bank import Bank
from rung.forward.trie import Sequence
from rung.methods import merging
from tests.models import tiny_adapter

ROPE = {"rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
BASES = {
    "dynamic": ("llama", {"rope_scaling": {"rope_type": "dynamic", **ROPE}}),
    "longrope": (
        "phi3",
        {
            "original_max_position_embeddings": 16,
            "rope_scaling": {
                "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, **ROPE
            },
        },
    ),
    "experts": ("qwen2_moe", {}),
    "hybrid": ("jamba", {}),
    "state space": ("mamba", {}),
    "sinks": ("gpt_oss", {}),
    "windows in masks": ("phimoe", {}),
    "multipliers": ("falcon_h1", {}),
    "head of its own": ("modernbert-decoder", {}),
    "capped": ("recurrent_gemma", {}),
}  # fmt: skip


@functools.cache
def made(name):
    family, more = BASES[name]
    return Bank(model_of(family, **more))


def alone(name, ids):
    """Transformers' own logits, by a model that nothing was run on before."""
    family, more = BASES[name]
    with torch.no_grad():
        return model_of(family, **more)(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def together(bank, rows, slot=-1):
    trie = bank.trie([Sequence(ids, slot=slot) for ids in rows])
    with torch.no_grad():
        hidden = bank.forward(trie)
        return [bank.logits(hidden[torch.from_numpy(r)], [slot] * len(r)) for r in trie.rows]


def close(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max()) < 1e-4


@pytest.mark.parametrize("name", BASES)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_rows_are_what_they_are_alone(name, data):
    """Mixes of lengths on both sides of where longer rows change the positions."""
    lengths = data.draw(st.lists(st.integers(2, 40), min_size=1, max_size=3))
    stem = torch.randint(3, 300, (40,), generator=torch.Generator().manual_seed(len(lengths))).tolist()
    rows = [
        [*stem[: n // 2], *[(7 * i + k) % 290 + 5 for k in range(n - n // 2)]]
        for i, n in enumerate(lengths)
    ]
    for found, ids in zip(together(made(name), rows), rows, strict=True):
        assert close(found, alone(name, ids)), len(ids)


# Kinds of attention, positions and windows that no base above and no family of tests.models has.
SCALED = {"rope_theta": 10000.0, "factor": 4.0}
KINDS = {
    "linear positions": ("llama", {"rope_scaling": {"rope_type": "linear", **SCALED}}),
    "yarn": ("llama", {"rope_scaling": {"rope_type": "yarn", **ROPE}}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "windows in half": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "chunks": ("llama4_text", {}),
    "no positions": ("smollm3", {}),
    "scaled logits": ("cohere2", {}),
    "local": ("gpt_neo", {}),
    "alibi": ("mpt", {}),
    "half turned": ("gptj", {}),
    "one key head": ("falcon", {}),
    "convolutions": ("lfm2", {}),
    "recurrent": ("rwkv", {}),
    "two softmaxes": ("diffllama", {}),
    "latent keys": ("deepseek_v3", {}),
    "sinusoids": ("xglm", {}),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_short_row_is_what_it_is_alone_beside_a_long_one(name):
    family, more = KINDS[name]
    stem = torch.randint(3, 300, (40,), generator=torch.Generator().manual_seed(5)).tolist()
    rows = [stem, [*stem[:4], *range(20, 28)]]
    bank = Bank(model_of(family, **more))
    for mixed in (rows, rows[1:]):
        for found, ids in zip(together(bank, mixed), mixed, strict=True):
            with torch.no_grad():
                fresh = model_of(family, **more)
                wanted = fresh(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            assert close(found, wanted), len(ids)


@functools.cache
def lodgers(name):
    """Slots of a base: none's, and of adapters of three kinds, one of which acts only when called."""
    bank = made(name)
    called = tiny_adapter(bank, "lora", 2)
    called.activation = (7, 8)
    kinds = [tiny_adapter(bank, m, i) for i, m in enumerate(("lora", "last_layers"))]
    return [-1, *(bank.add(adapter) for adapter in (*kinds, called))]


@pytest.mark.parametrize("name", ["dynamic", "longrope", "experts", "hybrid"])
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_mixes_of_adapters_and_lengths_are_what_they_are_alone(name, data):
    bank, slots = made(name), lodgers(name)
    asked = data.draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(2, 40)), min_size=2, max_size=4)
    )
    batch = []
    for place, count in asked:
        ids = [5 + (11 * k + place * 3) % 60 for k in range(count)]
        ids[count // 2 : count // 2 + 2] = (7, 8)
        batch.append(Sequence(ids, slot=slots[place]))

    def answers(rows):
        trie = bank.trie(rows)
        with torch.no_grad():
            hidden = bank.forward(trie)
            own = zip(trie.rows, rows, strict=True)
            return [bank.logits(hidden[torch.from_numpy(r)], [s.slot] * len(r)) for r, s in own]

    for row, found in zip(batch, answers(batch), strict=True):
        assert close(found, answers([row])[0])


@pytest.mark.parametrize("name", [n for n in BASES if n not in ("dynamic", "longrope")])
@pytest.mark.parametrize("method", ["lora", "last_layers", "full"])
def test_adapters_answer_as_their_merged_model(name, method):
    bank, ids = made(name), [5, 80, 17, 200, 33, 9]
    adapter = tiny_adapter(bank, method)
    family, more = BASES[name]
    whole = model_of(family, **more)
    merging.put_into(whole, merging.merged(adapter, bank))
    slot = bank.add(adapter)
    try:
        with torch.no_grad():
            wanted = whole(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
        assert close(together(bank, [ids], slot)[0], wanted)
        assert close(together(bank, [ids])[0], alone(name, ids))
    finally:
        bank.remove(slot)


def test_what_was_found_is_said():
    assert made("dynamic").findings.together and made("longrope").findings.together
    assert made("head of its own").findings.head and made("head of its own").carries_trie
    assert "masks" in made("windows in masks").why_not
    assert made("multipliers").findings.embeddings and made("multipliers").findings.virtual


def test_a_base_that_is_not_causal_only_reads():
    from rung import methods

    bank = Bank(model_of("bert"))
    assert "causal" in bank.findings.causal
    for name in ("lora", "prompt_tuning", "few_shot"):
        method = methods.get(name)
        assert "causal" in method.refusal(bank, method.Config())
    probe_method = methods.get("linear_probe")
    assert probe_method.refusal(bank, probe_method.Config()) is None
    # Texts that begin alike must not share states, since each token sees what stands behind it.
    from rung.forward.features import Frame, pooled

    found = pooled(bank, [(5, 6, 7, 8), (5, 6, 7, 9, 10)], [2], Frame())
    each = [pooled(bank, [p], [2], Frame()) for p in [(5, 6, 7, 8), (5, 6, 7, 9, 10)]]
    for kind, vectors in found.items():
        assert torch.allclose(vectors, torch.cat([e[kind] for e in each]), atol=1e-5)


def test_virtual_tokens_are_refused_by_name_where_a_base_takes_none():
    from rung.forward.adapter import Adapter

    bank = made("multipliers")
    with pytest.raises(ArtefactError, match="no virtual tokens"):
        bank.add(Adapter(embeddings=torch.zeros(2, bank.width)))


@pytest.mark.parametrize("family", ["mamba", "deepseek_v3", "gemma3n_text"])
def test_prefixes_go_by_the_real_cache(family):
    from rung import methods

    method, bank = methods.get("prefix_tuning"), Bank(model_of(family))
    assert "keys and values" in method.refusal(bank, method.Config(virtual_tokens=3))
    with pytest.raises(MethodMisfit):
        tiny_adapter(bank, "prefix_tuning")


def test_findings_are_kept_by_digest_and_version(rung_home, monkeypatch):
    first = Bank(model_of("phimoe"), digest="d" * 64).findings
    monkeypatch.setattr(probe, "_Probe", None)  # whoever asks again does not probe again
    assert Bank(model_of("phimoe"), digest="d" * 64).findings == first
    with pytest.raises(TypeError):
        Bank(model_of("phimoe"), digest="e" * 64)


def test_weights_that_the_base_reads_all_the_same_are_refused():
    """DBRX hands its experts' weights to a module that does not have them."""
    from rung.forward.dry_run import dry_run

    bank = Bank(model_of("dbrx"))
    before = [p.requires_grad for p in bank.model.parameters()]
    assert "cannot be told apart" in dry_run(bank, tiny_adapter(bank, "last_layers"))
    assert dry_run(bank, tiny_adapter(bank, "lora")) is None
    assert [p.requires_grad for p in bank.model.parameters()] == before


def test_what_reads_pictures_is_left_out():
    bank = Bank(model_of("git"))
    assert bank.beside_text
    for method in ("lora", "full"):
        adapter = tiny_adapter(bank, method)
        named = [*adapter.linear, *adapter.weights]
        assert named and not any(n.startswith(b) for n in named for b in bank.beside_text)


def test_the_untouched_model_is_asked_once_for_each_row():
    bank = Bank(model_of("llama"))
    bank.model.set_attn_implementation("sdpa")  # as it came
    bank.plan = bank.slots = None
    asked = probe._Probe(bank)
    passes = []
    hook = asked.bank.base_model.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        asked._ask_untouched()
    hook.remove()
    assert len(passes) == len(asked.rows) == len(asked.hidden)
    for row, hidden in zip(asked.rows, asked.hidden, strict=True):
        torch.testing.assert_close(hidden, asked._states(asked._ids(row)))
    assert not asked.bank.base_model._forward_hooks
