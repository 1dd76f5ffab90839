"""The contract: names, knobs, starts and misfits."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rung import methods
from rung.config import knobs_of, resolve
from rung.errors import ConfigError, MethodMisfit
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.methods import merging
from rung.methods.base import Method, Start
from rung.registry import Registry
from tests.models import tiny_model


@pytest.fixture(scope="module")
def bank():
    return Bank(tiny_model())


def start():
    return Start(torch.Generator().manual_seed(0), [(5, 6, 7)], lambda text: [9, 10])


def test_every_method_says_what_it_is():
    assert {"prompt_tuning", "prefix_tuning", "lora", "last_layers", "full", "ia3"} <= set(
        methods.names()
    )
    for name in methods.names():
        method = methods.get(name)
        assert isinstance(method, Method) and method.name == name and method.summary
        assert all(k.help for k in knobs_of(method.Config))


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'prompt_tuning'"):
        methods.get("prompt-tuning")


def test_names_that_others_use_are_answered_with_ours():
    with pytest.raises(ConfigError, match="unknown method 'QLoRA', here lora with --quantize nf4"):
        methods.get("QLoRA")
    for ours in methods.registry.foreign.values():
        methods.get(ours.split()[0])


def test_a_third_party_adds_a_method_by_an_entry_point(monkeypatch):
    import types

    class Entry:
        name, value = "theirs", "their_package.theirs"

        def load(self):
            return types.SimpleNamespace(Method=methods.get("ia3").__class__)

    monkeypatch.setattr("rung.registry.entry_points", lambda group: [Entry()])
    found = Registry("rung.methods", "Method", "method")
    assert "theirs" in found.names()
    assert found.get("theirs").name == "theirs"


@pytest.mark.parametrize("name", [n for n in methods.names() if methods.get(n).trained])
def test_the_same_seed_gives_the_same_start(bank, name):
    method = methods.get(name)
    first, second = (method.build(bank, method.Config(), start()).parameters() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert all(t.dtype == torch.float32 for t in first.values())


@pytest.mark.parametrize("name", ["prompt_tuning", "prefix_tuning"])
@pytest.mark.parametrize("init", ["random", "vocab", "text"])
def test_starts_of_virtual_tokens(bank, name, init):
    method = methods.get(name)
    (config,) = resolve([method.Config], {"init": init, "virtual_tokens": 5})
    (tensor,) = method.build(bank, config, start()).parameters().values()
    assert 5 in tensor.shape and bool(tensor.isfinite().all()) and float(tensor.abs().max()) > 0


def test_text_that_is_given_is_where_a_prompt_starts(bank):
    method = methods.get("prompt_tuning")
    adapter = method.build(bank, method.Config(virtual_tokens=3, init_text="x"), start())
    table = bank.model.get_input_embeddings().weight
    assert torch.equal(adapter.embeddings, table[torch.tensor([9, 10, 9])])
    with pytest.raises(MethodMisfit, match="--init-text"):
        method.build(bank, method.Config(), Start(torch.Generator()))


def test_a_prefix_from_text_is_the_text(bank):
    """Keys and values of a text answer exactly like the text itself in front."""
    from rung.forward.trie import Sequence

    method = methods.get("prefix_tuning")
    slot = bank.add(method.build(bank, method.Config(virtual_tokens=3), start()))
    with torch.no_grad():
        prefix, text = (
            bank.trie([Sequence((11, 12), slot=slot)]),
            bank.trie([Sequence((5, 6, 7, 11, 12))]),
        )
        assert torch.allclose(bank.forward(prefix), bank.forward(text)[3:], atol=1e-5)


def test_misfits_are_named(bank):
    last = methods.get("last_layers")
    assert "3" in last.misfit(bank, last.Config(layers=4))
    prefix = methods.get("prefix_tuning")
    assert "128" in prefix.misfit(bank, prefix.Config(virtual_tokens=128))
    lora = methods.get("lora")
    with pytest.raises(MethodMisfit, match="q_proj"):
        lora.build(bank, lora.Config(targets=["qproj"]), start())
    with pytest.raises(MethodMisfit, match="--to peft"):
        merging.merged(Adapter(embeddings=torch.zeros(2, bank.width)), bank)


def test_a_setting_that_several_methods_have_means_the_same_in_each():
    """A plain name reaches all of them: `--depth 4` of one is no value of another."""
    kinds: dict[str, set] = {}
    for name in methods.names():
        for one in dataclasses.fields(methods.get(name).Config):
            kinds.setdefault(one.name, set()).add((str(one.type), one.metadata.get("choices")))
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}
