"""Added tokens, from --add-tokens to other tools: one text is one token wherever it is read."""

from __future__ import annotations

import json
import warnings

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import rung
from rung import bases, exports, models
from rung.data import Template
from rung.data.added_tokens import added_to
from rung.errors import ConfigError, DataError, Interrupted, MethodMisfit
from rung.exports import proof
from rung.forward.bank import Bank
from rung.forward.token_rows import TokenRows
from rung.library import adding
from rung.methods import artefact
from rung.train.sources import Shuffled
from rung.types import Example
from tests.engine.world import tiny_llama
from tests.tokens import tiny_tokenizer
from tests.train.conftest import Work, row_of, work_of

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TOKENS = ["<|user|>", "<|assistant|>", "<|end|>", "<call>", "</call>"]
ROWS = [{"prompt": f"Call {i} <|end|>", "completion": f"<call>{i % 5}</call>"} for i in range(24)]
IDS = dict(zip(TOKENS, range(258, 263), strict=True))  # behind the tokenizer's 258, of 260 rows
SETTINGS = {"device": "cpu", "dtype": "float32", "lr": 1e-2, "steps": 2}


@pytest.fixture
def base(tmp_path, rung_home):
    """A base whose template writes what it has no tokens for, its vocabulary padded to 260."""
    folder = tmp_path / "base"
    tiny_llama(vocab_size=260).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def caller(base):
    """A model with added tokens."""
    return rung.tune("caller", ROWS, base=base, add_tokens=TOKENS, **SETTINGS)


def test_training_serving_and_transformers_read_the_same_ids(base, caller, rung_home):
    folder = rung_home / "models" / "caller"
    assert json.loads((folder / "rung.json").read_text())["added_tokens"] == IDS
    template = caller.prepared.template
    example = Example(
        messages=(
            {"role": "user", "content": "Call 7 <|end|>"},
            {"role": "assistant", "content": "<call>2</call>"},
        )
    )
    row = template.render(example)
    # What the template writes is its token; in a content it stays text, since no content ends a turn.
    assert row.ids[0] == IDS["<|user|>"] and row.ids.count(IDS["<|end|>"]) == 2
    learnt = [i for i, s in zip(row.ids, row.supervised, strict=True) if s]
    assert (learnt[0], learnt[-2], learnt[-1]) == (IDS["<call>"], IDS["</call>"], IDS["<|end|>"])
    assert caller.prepared.rows["train"][0].sequences[0].ids[0] == IDS["<|user|>"]

    engine = models.load_engine(["caller"], base=base)
    served, bare = engine.model("caller"), engine.model("base")
    assert served.template.render(example).ids == row.ids
    assert served.template.prompt(example.messages[:1]) == list(row.ids[: -len(learnt)])
    assert served.stop_ids[0] == IDS["<|end|>"]
    assert served.template.decode(learnt) == "<call>2</call>"
    assert max(bare.template.prompt(example.messages[:1])) < 258
    theirs = AutoTokenizer.from_pretrained(folder)
    text = theirs.apply_chat_template(
        [{"role": "user", "content": "Call 7"}], tokenize=False, add_generation_prompt=True
    )
    assert theirs(text, add_special_tokens=False)["input_ids"] == served.template.prompt(
        [{"role": "user", "content": "Call 7"}]
    )


def test_peft_and_transformers_answer_with_it_as_rung_does(base, caller, rung_home, tmp_path):
    for to in ("peft", "merged", "gguf"):
        assert rung.export("caller", tmp_path / to, to=to).difference < 1e-4
    engine = models.load_engine(["caller"], base=base)
    ids = (*IDS.values(), 60, 61, 62)
    wanted = proof.logits_of(engine.bank, engine.model("caller").slot, ids)
    assert wanted.shape == (8, 263)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    resized = AutoModelForCausalLM.from_pretrained(base)
    resized.resize_token_embeddings(263, mean_resizing=False)
    for model in (merged, peft.PeftModel.from_pretrained(resized, str(tmp_path / "peft"))):
        with torch.no_grad():
            found = model(input_ids=torch.tensor([ids])).logits[0]
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.convert_tokens_to_ids(TOKENS) == list(IDS.values())
    # The merged model is a base of its own, which knows the tokens already.
    again = bases.load(bases.resolve(str(tmp_path / "merged")))
    assert len(again.tokenizer) == 263
    with pytest.raises(ConfigError, match=r"rows of tokens.*use --to gguf"):
        rung.export("caller", tmp_path / "lora", to="gguf-lora")


def test_a_damaged_row_is_caught_by_the_proof(caller, tmp_path, monkeypatch):
    chosen = exports.get("peft")
    write = chosen.write

    def damaged(source, folder, dtype):
        write(source, folder, dtype)
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        name = next(n for n in tensors if "lm_head" in n)
        save_file({**tensors, name: tensors[name] + 0.5}, file)

    monkeypatch.setattr(chosen, "write", damaged)
    with pytest.raises(rung.RungError, match="answers differ"):
        rung.export("caller", tmp_path / "out", to="peft")


def test_a_parent_hands_its_tokens_on(base, caller, rung_home):
    more = rung.tune(
        "more",
        ROWS,
        base=base,
        parent="caller",
        add_tokens=["<more>", "<call>", "<|im_end|>"],
        **SETTINGS,
    )
    known = json.loads((rung_home / "models" / "more" / "rung.json").read_text())["added_tokens"]
    assert known == {**IDS, "<more>": 263}
    told = [p.message for p in more.prepared.problems if "is a token" in p.message]
    assert len(told) == 1 and "<|im_end|>" in told[0]
    begun, ended = caller.adapter.tokens, more.adapter.tokens
    assert ended.ids == (*begun.ids, 263)
    # No row has it, so it is where it began but for what the output layer learnt.
    mean = tiny_llama(vocab_size=260).get_input_embeddings().weight.detach().mean(0)
    torch.testing.assert_close(ended.embeddings[-1].detach(), mean)
    third = rung.tune("third", ROWS, base=base, parent="more", **SETTINGS)
    assert third.adapter.tokens.ids == ended.ids


def test_a_model_that_was_added_hands_its_tokens_on_too(base, caller, rung_home, tmp_path):
    rung.export("caller", tmp_path / "peft", to="peft")
    adding.add("again", str(tmp_path / "peft"), base=base)
    assert json.loads((rung_home / "models" / "again" / "rung.json").read_text())["added_tokens"] == IDS
    child = rung.tune("child", ROWS, base=base, parent="again", add_tokens=["<more>"], **SETTINGS)
    assert child.adapter.tokens.ids == (*caller.adapter.tokens.ids, 263)


def test_what_cannot_be_added_is_refused_in_a_line(base, rung_home):
    def tuned(**settings):
        return rung.tune("lost", ROWS, base=base, **SETTINGS, **settings)

    with pytest.raises(ConfigError, match="add-tokens belongs to lora, not to ia3"):
        tuned(method="ia3", add_tokens=["<a>"])
    with pytest.raises(MethodMisfit, match="blanks around it"):
        tuned(add_tokens=[" <a>"])
    with pytest.raises(MethodMisfit, match="leave --activated or --add-tokens out"):
        tuned(add_tokens=["<a>"], activated="Call")
    rung.tune("called", ROWS, base=base, **SETTINGS, activated="Call")
    with pytest.raises(MethodMisfit, match="leave --activated or --add-tokens out"):
        tuned(parent="called", add_tokens=["<a>"])
    pairs = [{"prompt": f"Call {i}", "chosen": "<a>", "rejected": "no"} for i in range(24)]
    with pytest.raises(MethodMisfit, match="no rows of the added tokens and cannot be the reference"):
        rung.tune(
            "lost",
            pairs,
            base=base,
            objective="dpo",
            reference="base",
            **SETTINGS,
            add_tokens=["<a>", "<b>", "<c>"],
        )
    assert rung.tune(
        "found", pairs, base=base, objective="dpo", **SETTINGS, add_tokens=["<a>", "<b>", "<c>"]
    )


# A word is no marker, whether the template writes it (a role) or a probe of the template holds it.
WORDS = ["assistant", "question", "Probe"]


@given(word=st.sampled_from(WORDS), around=st.sampled_from(["", " ", "<", "<|user|>"]))
@settings(deadline=None)
def test_words_are_tokens_in_contents_and_answers(word, around):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    one, _ = added_to(Template.of(tokenizer), [*WORDS, *TOKENS])
    reply = {"role": "assistant", "content": f"{word} a"}
    row = one.render(Example(({"role": "user", "content": f"{around}{word}"}, reply)))
    assert row.ids.count(one.added[word]) == 2 and row.ids.count(one.added["<|user|>"]) == 1
    learnt = [i for i, s in zip(row.ids, row.supervised, strict=True) if s]
    assert one.decode(learnt) == f"{word} a"


@pytest.mark.parametrize("text", ["café", "<größe>", "Ġa"])
def test_a_token_that_answers_would_show_as_another_text_is_refused(text):
    with pytest.raises(DataError, match=f"writes '{text}' as .* in answers.*another spelling"):
        added_to(Template.of(tiny_tokenizer()), ["<fine>", text])


def test_a_tokenizer_with_more_tokens_than_rows_takes_no_more(base, rung_home):
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<a>", "<b>", "<c>"])
    tokenizer.save_pretrained(base)
    with pytest.raises(MethodMisfit, match="has 261 tokens already and its embeddings 260 rows"):
        rung.tune("lost", ROWS, base=base, add_tokens=["<d>"], **SETTINGS)


def begun(path) -> Work:
    """A training whose rows hold added tokens."""
    work = work_of(path)
    work.adapter.tokens = TokenRows.fresh(work.bank, (96, 97, 98))
    for part in ("train", "validation"):
        work.prepared.rows[part] = [
            row_of((5, 97, 6 + i % 3, 98), (False, False, True, True), f"{part}:{i}") for i in range(24)
        ]
    work.source = Shuffled(work.train, 4, 0)
    return work


def test_an_interrupted_training_ends_with_the_same_bits(tmp_path):
    whole = begun(tmp_path / "whole")
    whole.run()
    cut = begun(tmp_path / "cut")
    steps = iter(range(100))
    cut.stopping = lambda: next(steps) >= 5
    with pytest.raises(Interrupted):
        cut.run()
    again = begun(tmp_path / "cut")
    again.run()
    for name, tensor in whole.adapter.parameters().items():
        assert tensor.equal(again.adapter.parameters()[name]), name
    assert not whole.adapter.tokens.embeddings[1].equal(whole.adapter.tokens.embeddings[2])


CONFIGS = {
    "trained rows": {"trainable_token_indices": {"embed_tokens": [261, 258], "lm_head": [261, 258]}},
    "resized": {},
    "whole tables": {"modules_to_save": ["embed_tokens", "lm_head"]},
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_what_peft_trains_on_a_resized_base_is_read(kind, tied, tmp_path):
    def resized():
        torch.manual_seed(0)
        model = tiny_llama(vocab_size=260, tie_word_embeddings=tied)
        model.resize_token_embeddings(262, mean_resizing=False)
        return model

    more = CONFIGS[kind]
    if tied and "trainable_token_indices" in more:
        more = {"trainable_token_indices": [261, 258]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], **more)
        theirs = peft.get_peft_model(resized(), config).eval()
    for i, parameter in enumerate(theirs.parameters()):
        if parameter.requires_grad:
            generator = torch.Generator().manual_seed(i)
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    theirs.save_pretrained(tmp_path, save_embedding_layers=True)
    bank = Bank(tiny_llama(vocab_size=260, tie_word_embeddings=tied))
    adapter, _ = artefact.load(tmp_path, bank)
    assert adapter.tokens.ids == ((258, 260, 261) if kind == "trained rows" else (260, 261))
    row = (60, 258, 261, 260, 62)
    with torch.no_grad():
        wanted = theirs(input_ids=torch.tensor([row])).logits[0]
    found = proof.logits_of(bank, bank.add(adapter), row)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
