"""Activated LoRA: it acts from the text on that calls it, as PEFT has it, and the base in front."""

from __future__ import annotations

import dataclasses
import warnings

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung import methods
from rung.engine import Engine
from rung.errors import ArtefactError, MethodMisfit
from rung.forward.bank import Bank
from rung.forward.loss import cross_entropy
from rung.forward.packing import last_of
from rung.forward.trie import Sequence
from rung.methods import artefact, merging
from rung.methods.base import Start
from rung.train.prepare import _require_calls
from tests.engine.world import asked, engine_of
from tests.methods.test_peft_kinds import LINEAR, TASK, apart
from tests.models import tiny_adapter, tiny_model
from tests.train.conftest import prepared_of, row_of

CALL = [7, 8]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder that PEFT wrote, and PEFT's model."""
    folder = tmp_path_factory.mktemp("activated")
    return folder, theirs(tiny_model(), folder)


def theirs(model, folder):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(
            **TASK, r=4, lora_alpha=9, target_modules=LINEAR, alora_invocation_tokens=CALL
        )
        made = peft.get_peft_model(model, config).eval()
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    made.save_pretrained(folder)
    return made


def logits(bank, rows, slots):
    trie = bank.trie([Sequence(r, slot=s) for r, s in zip(rows, slots, strict=True)])
    with torch.no_grad():
        hidden = bank.forward(trie)
        return trie, [bank.logits(hidden[p], trie.slots[p].tolist()) for p in trie.rows]


def of_peft(model, row):
    with torch.no_grad():
        return model(input_ids=torch.tensor([row])).logits[0]


texts = st.lists(st.sampled_from([5, 7, 8, 9]), min_size=1, max_size=9)


@given(st.lists(texts, min_size=1, max_size=5))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_texts_answer_as_in_peft_beside_others(written, rows):
    folder, model = written
    bank = Bank(tiny_model())
    slot = bank.add(artefact.load(folder, bank)[0])
    other = bank.add(tiny_adapter(bank, "prefix_tuning"))
    _, found = logits(bank, [*rows, rows[0]], [slot] * len(rows) + [other])
    for row, one in zip(rows, found[:-1], strict=True):
        assert apart(one, of_peft(model, row)) < 1e-4
    assert apart(found[-1], logits(bank, rows[:1], [other])[1][0]) < 1e-5


@given(texts, texts)
def test_the_last_call_counts(ids, wanted):
    found = [i for i in range(len(ids) - len(wanted) + 1) if ids[i : i + len(wanted)] == wanted]
    assert last_of(wanted, ids) == (found[-1] if found else None)


def test_padded_rows_too(tmp_path):
    torch.manual_seed(0)
    config = peft.LoraConfig(
        **TASK, r=4, target_modules=["query_key_value"], alora_invocation_tokens=CALL
    )
    model = peft.get_peft_model(tiny_model("bloom"), config).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    bank = Bank(tiny_model("bloom"))
    assert not bank.carries_trie
    slot = bank.add(artefact.load(tmp_path, bank)[0])
    rows = [[5, 9, 7, 8, 4, 6], [3, 4, 9], [7, 8, 4, 7, 8, 5, 5]]
    for row, found in zip(rows, logits(bank, rows, [slot] * 3)[1], strict=True):
        assert apart(found, of_peft(model, row)) < 1e-4


def test_what_stands_before_the_call_is_shared(written):
    folder, _ = written
    bank = Bank(tiny_model())
    slot = bank.add(artefact.load(folder, bank)[0])
    rows = [[5, 9, *CALL, 4], [5, 9, *CALL, 6], [5, 9, 3]]
    trie, _ = logits(bank, rows, [slot] * 3)
    assert len(trie) == 7  # 5 9 by the base, 7 8 4 and 6 by the adapter, 3 by the base
    assert (trie.acting == -1).sum() == 3


def test_gradients_equal_pefts(written):
    folder, model = written
    bank = Bank(tiny_model())
    adapter = artefact.load(folder, bank)[0].trainable()
    slot = bank.add(adapter)
    rows = [[5, 9, *CALL, 4, 6], [5, 9, *CALL, 6, 3], [5, 3, 4, 9, *CALL]]
    trie = bank.trie([Sequence(r, (False,) + (True,) * 5, slot) for r in rows])
    loss, _ = cross_entropy(bank, trie, bank.forward(trie), slot)
    ours = torch.autograd.grad(loss, list(adapter.parameters().values()))
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    ids = torch.tensor(rows)
    out = model(input_ids=ids).logits[:, :-1]
    whole = torch.nn.functional.cross_entropy(
        out.reshape(-1, out.shape[-1]), ids[:, 1:].reshape(-1), reduction="sum"
    )
    reference = dict(zip(named, torch.autograd.grad(whole, list(named.values())), strict=True))
    assert float(loss) == pytest.approx(float(whole), rel=1e-5)
    for name, gradient in zip(adapter.parameters(), ours, strict=True):
        _, _, rest = name.partition("linear.")
        assert apart(gradient, reference[f"base_model.model.{rest}.default.weight"]) < 1e-3


@pytest.fixture
def served(tmp_path):
    from tests.engine.world import tiny_llama

    model = theirs(tiny_llama(), tmp_path)
    engine = engine_of(tiny_llama(), ("lora", "prefix_tuning"))
    bank = engine.bank
    adapter = artefact.load(tmp_path, bank)[0]
    mine = dataclasses.replace(engine.models["lora"], name="called", slot=bank.add(adapter))
    return Engine(bank, {**engine.models, "called": mine}, memory=1 << 28), model


def test_served_answers_are_pefts(served):
    engine, model = served
    model.generation_config.eos_token_id = None
    prompts = [[5, 9, 11, *CALL, 4], [5, 9, 11, 12], [*CALL, 9] * 4, [3, 4] * 12 + CALL]
    requests = [asked("called", ids, 8) for ids in prompts]
    together = engine.generate([*requests, asked("base", prompts[0]), asked("lora", prompts[0])])
    for ids, answer in zip(prompts, together, strict=False):
        with torch.no_grad():
            wanted = model.generate(
                input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=8, min_new_tokens=8, do_sample=False, pad_token_id=0,
            )  # fmt: skip
        assert list(answer.ids) == wanted[0, len(ids) :].tolist()


def test_a_call_reads_again_only_from_itself_on(served):
    engine, _ = served
    text = [3 + i % 90 for i in range(40)]
    called = asked("called", [*text, *CALL, 4])
    fresh = engine.generate([called])[0]
    engine.generate([asked("base", text)], remember=True)
    again = engine.generate([called], remember=True)[0]
    assert fresh.cached_tokens == 0 and again.cached_tokens == 40 and again.ids == fresh.ids
    assert engine.generate([asked("lora", [*text, *CALL, 4])], remember=True)[0].cached_tokens == 0


def test_what_rung_writes_peft_reads(tmp_path):
    bank = Bank(tiny_model())
    method = methods.get("lora")
    config = method.Config(rank=3, activated="x y")
    adapter = method.build(
        bank, config, Start(torch.Generator().manual_seed(0), [], lambda text: list(CALL))
    )
    for tensor in adapter.parameters().values():
        tensor.data += 0.1
    from tests.methods.test_peft import BASE

    artefact.write_adapter(tmp_path, method, *method.to_files(adapter, bank, config), BASE)
    assert artefact.read_back(adapter, bank, method, config) is None
    model = peft.PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
    row = [5, 9, 7, 8, 4]
    assert apart(logits(bank, [row], [bank.add(adapter)])[1][0], of_peft(model, row)) < 1e-4
    again = artefact.load(tmp_path, bank)[0]
    assert again.activation == tuple(CALL)


def test_what_cannot_be_is_refused(written, tmp_path):
    folder, _ = written
    bank = Bank(tiny_model())
    adapter, _ = artefact.load(folder, bank)
    with pytest.raises(MethodMisfit, match="acts only behind"):
        merging.merged(adapter, bank)
    rows = [row_of((5, 6, 9), (False, True, True))]
    prepared = dataclasses.replace(prepared_of(bank, train=rows), template=_Template())
    with pytest.raises(MethodMisfit, match=r"no training row holds its tokens \[7, 8\]"):
        _require_calls(adapter, prepared)
    config = peft.LoraConfig(
        **TASK, r=4, target_modules=LINEAR, alora_invocation_tokens=CALL, use_dora=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            peft.get_peft_model(tiny_model(), config).save_pretrained(tmp_path)
        except ValueError:  # PEFT refuses it too
            return
    with pytest.raises(ArtefactError):
        artefact.load(tmp_path, bank)


class _Template:
    class tokenizer:  # noqa: N801
        @staticmethod
        def decode(ids):
            return "call"
