"""Rows of added tokens: as transformers and PEFT compute them, and unseen by others of a batch."""

from __future__ import annotations

import dataclasses
import warnings

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung import methods
from rung.bases import quantize as quantizing
from rung.data import Template
from rung.data.added_tokens import added_to
from rung.engine import Engine, ServedModel
from rung.engine.sampler import Draw, draw
from rung.errors import ArtefactError
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.forward.compiled import compiler, integers
from rung.forward.compiled.decoder import CompiledDecoder
from rung.forward.loss import cross_entropy, edge_logprobs
from rung.forward.token_rows import TokenRows
from rung.forward.trie import Sequence
from rung.methods import artefact, merging
from rung.methods.base import Start
from rung.types import BaseInfo, Decoding
from tests.engine.world import asked, hf_greedy, tiny_llama
from tests.models import VOCABULARY, tiny_adapter, tiny_config, tiny_model
from tests.tokens import tiny_tokenizer

ADDED = (95, 96, 97, 98)  # the base has rows of the first two, which no tokenizer names
LORA = methods.get("lora")
ROWS = [(5, 97, 7, 95, 9, 98), (5, 97, 7, 8), (96, 5, 6)]


def model_of(family: str):
    """A tiny model; "llama tied" ties its output layer, which the other Llama does not."""
    from transformers import AutoModelForCausalLM

    if family != "llama tied":
        return tiny_model(family)
    config = tiny_config("llama")
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return model.eval()


def adapter_of(bank: Bank, seed: int = 0, tokens=ADDED, **knobs) -> Adapter:
    """LoRA with rows of tokens, moved away from where it starts."""
    generator = torch.Generator().manual_seed(seed)
    made = LORA.build(bank, LORA.Config(rank=4, **knobs), Start(generator, tokens=tuple(tokens)))
    for tensor in made.parameters().values():
        tensor.data += 0.2 * torch.randn(tensor.shape, generator=generator)
    return made


def theirs_of(family: str, folder, bank: Bank, adapter: Adapter):
    """PEFT over transformers' resized base, from what is written of an adapter."""
    settings, tensors = LORA.to_files(adapter, bank, LORA.Config(rank=4))
    artefact.write_adapter(folder, LORA, settings, tensors, BaseInfo("tiny", "tiny", "", "", ""))
    base = model_of(family)
    base.resize_token_embeddings(99, mean_resizing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(base, str(folder), is_trainable=True).eval()


def logits(bank: Bank, rows, slots):
    trie = bank.trie([Sequence(r, slot=s) for r, s in zip(rows, slots, strict=True)])
    with torch.no_grad():
        hidden = bank.forward(trie)
        return [bank.logits(hidden[p], trie.slots[p].tolist()) for p in trie.rows]


def their_loss(model, row):
    ids = torch.tensor([row])
    return model(input_ids=ids, labels=ids).loss * (len(row) - 1)


@pytest.mark.parametrize("family", ["llama", "llama tied", "gemma2", "bloom"])
def test_logits_and_gradients_are_those_of_peft_on_the_resized_base(family, tmp_path):
    bank = Bank(model_of(family))
    assert bank.carries_trie == (family != "bloom")  # in padded rows there
    adapter = adapter_of(bank)
    assert adapter.tokens.tied == (family != "llama")
    theirs = theirs_of(family, tmp_path, bank, adapter)
    slot = bank.add(adapter)
    for row, found in zip(ROWS, logits(bank, ROWS, [slot] * 3), strict=True):
        with torch.no_grad():
            wanted = theirs(input_ids=torch.tensor([row])).logits[0]
        assert found.shape == wanted.shape == (len(row), 99)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)

    adapter.trainable()
    supervised = [(False,) + (True,) * (len(r) - 1) for r in ROWS]
    trie = bank.trie([Sequence(r, s, slot) for r, s in zip(ROWS, supervised, strict=True)])
    total, _ = cross_entropy(bank, trie, bank.forward(trie), slot)
    wanted = sum(their_loss(theirs, row) for row in ROWS)
    torch.testing.assert_close(total, wanted, rtol=1e-5, atol=1e-5)
    found = dict(
        zip(
            adapter.parameters(),
            torch.autograd.grad(total, list(adapter.parameters().values())),
            strict=True,
        )
    )
    by_logprobs = -(trie.weight * edge_logprobs(bank, trie, bank.forward(trie), slot)).sum()
    again = torch.autograd.grad(by_logprobs, list(adapter.tokens.parameters().values()))
    wanted.backward()
    named = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    assert len(named) == len(found)
    delta = {n: g for n, g in named.items() if "trainable_tokens_delta" in n}
    heads = [g for n, g in delta.items() if "lm_head" in n]
    tables = [g for n, g in delta.items() if "lm_head" not in n] + heads
    for own, other, gradient in zip(
        tables, again, (found[f"tokens.{n}"] for n in adapter.tokens.parameters()), strict=True
    ):
        torch.testing.assert_close(gradient, own, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other, own, rtol=1e-4, atol=1e-5)
    for name, gradient in found.items():
        if name.startswith("linear."):
            other = named[f"base_model.model.{name.removeprefix('linear.')}.default.weight"]
            torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module", params=["llama", "llama tied", "bloom"])
def mixed(request):
    """A bank with two adapters that add tokens, one of others' and one of none."""
    bank = Bank(model_of(request.param))
    slots = [
        -1,
        bank.add(adapter_of(bank)),
        bank.add(adapter_of(bank, seed=1, tokens=(97, 98, 99))),
        bank.add(tiny_adapter(bank, "lora", seed=2)),
        bank.add(tiny_adapter(bank, "prompt_tuning", seed=3)),
    ]
    return bank, slots


ENDS = (VOCABULARY, 99, 100, VOCABULARY, VOCABULARY)


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_each_answers_in_any_batch_as_it_does_alone(mixed, data):
    bank, slots = mixed
    which = data.draw(st.lists(st.integers(0, len(slots) - 1), min_size=1, max_size=5))
    rows = [
        tuple(data.draw(st.lists(st.sampled_from([5, 6, *range(95, ENDS[w])]), min_size=1, max_size=6)))
        for w in which
    ]
    together = logits(bank, rows, [slots[w] for w in which])
    for w, row, found in zip(which, rows, together, strict=True):
        (alone,) = logits(bank, [row], [slots[w]])
        assert alone.shape[1] == ENDS[w]
        torch.testing.assert_close(found[:, : ENDS[w]], alone, rtol=1e-5, atol=1e-5)
        assert bool((found[:, ENDS[w] :] == float("-inf")).all())


def test_a_draw_does_not_hang_on_how_wide_the_batch_is():
    values = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    wide = torch.cat([values, torch.full((1, 7), float("-inf"))], 1)
    way = Decoding(temperature=1.0, seed=3, repetition_penalty=1.2, top_p=0.9)
    narrow, beside = Draw(way, (5, 6), vocabulary=40), Draw(way, (5, 6), vocabulary=40)
    for step in range(12):
        alone = int(draw(values, [narrow]))
        other = int(draw(wide if step % 2 else values, [beside]))
        assert alone == other
        narrow.take(alone), beside.take(other)


def test_the_engine_serves_added_tokens_beside_the_base():
    bank = Bank(tiny_llama())
    adapter = adapter_of(bank, tokens=(258, 259))
    adapter.tokens.output[1] *= 20  # so that it is drawn
    template, _ = added_to(Template.of(tiny_tokenizer()), ["<one>", "<two>"])
    slot = bank.add(adapter)
    models = {
        "base": ServedModel("base", -1, Template.of(tiny_tokenizer())),
        "added": ServedModel("added", slot, template),
    }
    engine = Engine(bank, models, memory=1 << 28)
    ways = [
        {},
        {"temperature": 1.0, "seed": 5},
        {"repetition_penalty": 1.3},
        {"top_k": 5, "temperature": 1.0, "seed": 1},
    ]
    requests = [
        asked(n, (60, 61, *((258, 259) if n == "added" else ())), 12, **w) for w in ways for n in models
    ]
    requests = [dataclasses.replace(r, logprobs=3) for r in requests]
    together = engine.generate(requests)
    alone = [engine.generate([r])[0] for r in requests]
    for a, b in zip(together, alone, strict=True):
        assert a.ids == b.ids
        logprobs = [[t.logprob for t in one.tokens] for one in (a, b)]
        torch.testing.assert_close(*map(torch.tensor, logprobs), rtol=1e-4, atol=1e-4)
    drawn = {i for one in together[1::2] for i in one.ids}
    assert drawn & {258, 259} and all(max(one.ids) < 258 for one in together[::2])
    # Greedily, as transformers writes with the merged model.
    fresh = tiny_llama()
    merging.put_into(fresh, merging.merged(adapter, bank))
    assert list(together[1].ids) == hf_greedy(fresh, (60, 61, 258, 259), 12)
    held = engine.constraint("added", "choice", ["<two>", "<one>"])
    (one,) = engine.generate([dataclasses.replace(asked("added", (60,), 8), constraint=held)])
    assert one.ids in ((258,), (259,)) or one.text in ("<one>", "<two>")
    with pytest.raises(Exception, match="outside 0 to 257"):
        engine.generate([asked("base", (60, 258))])


@pytest.mark.skipif(compiler.compiler() is None, reason="no C++ compiler is installed")
@pytest.mark.parametrize("kind", ["none", "int8"])
def test_compiled_steps_answer_as_torch(kind):
    answers = []
    for compiled in (True, False):
        model = tiny_llama()
        if kind != "none":
            quantizing.quantize(model, kind, "float32", "cpu")
        bank = Bank(model)
        adapter = adapter_of(bank, tokens=(258, 259))
        adapter.tokens.output[1] *= 20
        models = {
            "base": ServedModel("base", -1, Template.of(tiny_tokenizer())),
            "added": ServedModel("added", bank.add(adapter), Template.of(tiny_tokenizer())),
        }
        engine = Engine(bank, models, memory=1 << 28)
        integers.attach(bank, min_numbers=0)
        bank.compiled = CompiledDecoder.of(bank, bank.adapters, min_numbers=0) if compiled else None
        assert (bank.compiled is not None) == compiled
        ids = {"base": (60, 61), "added": (60, 258, 61, 259)}
        requests = [asked(n, ids[n], 12, temperature=1.0, seed=s) for s in (0, 1) for n in ids]
        answers.append(engine.generate(requests))
    assert answers[0] == answers[1]
    assert any(i >= 258 for one in answers[0] for i in one.ids)


@pytest.mark.parametrize(
    ("ids", "width", "reason"),
    [((99,), 32, "do not follow"), ((98, 97), 32, "do not follow"), ((97,), 8, "are 8 wide")],
)
def test_rows_that_do_not_fit_are_refused(ids, width, reason):
    bank = Bank(model_of("llama tied"))
    rows = torch.zeros(len(ids), width)
    with pytest.raises(ArtefactError, match=reason):
        bank.add(Adapter(tokens=TokenRows(ids, rows, rows)))
