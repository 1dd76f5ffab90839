"""Fresh bases: shape, tokenizer, and being found again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rung import bases
from rung.errors import BaseNotFound, ConfigError, StoreError

pytestmark = pytest.mark.usefixtures("empty_home")
SMALL = "scratch:layers=2,width=32,heads=4,kv_heads=2,vocab=320,context=64"
TEXTS = ["the cat sat on the mat", "the dog sat on the log", "Grüße, 世界 12"] * 5


def test_shape_and_tokenizer_are_as_asked() -> None:
    base = bases.load(bases.resolve(SMALL, data=iter(TEXTS)))
    config, tokenizer = base.model.config, base.tokenizer
    assert (config.num_hidden_layers, config.hidden_size) == (2, 32)
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2)
    assert config.max_position_embeddings == 64
    assert config.vocab_size == len(tokenizer) <= 320
    assert config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    for text in [*TEXTS, "never seen: \x00 🤖 ‮"]:
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
    assert len(tokenizer(" the").input_ids) == 1  # it was trained on the texts
    shown = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False
    )
    assert shown == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(shown).input_ids
    assert ids.count(tokenizer.eos_token_id) == 1


def test_the_same_data_gives_the_same_base() -> None:
    first = bases.resolve(SMALL, data=TEXTS)
    shutil.rmtree(first.path)
    assert bases.resolve(SMALL, data=TEXTS) == first
    assert bases.resolve(SMALL, data=TEXTS[:1]).digest != first.digest
    assert bases.resolve(SMALL + ",seed=1", data=TEXTS).digest != first.digest


def test_the_resolved_spec_finds_the_base_without_its_data() -> None:
    first = bases.resolve(SMALL, data=TEXTS)
    assert bases.resolve(first.spec) == first
    assert bases.resolve(first.spec, data=TEXTS) == first
    other = [text.upper() for text in TEXTS]
    assert bases.resolve(first.spec, data=other) == first  # a training on other texts goes on from it
    assert bases.resolve(SMALL + ",data=none", data=other) == bases.resolve(SMALL)
    weights = Path(first.path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    for texts in (None, other):  # it cannot be made again from these
        with pytest.raises(BaseNotFound, match="give the data"):
            bases.resolve(first.spec, data=texts)
    assert bases.resolve(first.spec, data=TEXTS) == first
    shutil.rmtree(first.path)
    with pytest.raises(BaseNotFound, match="give the data"):
        bases.resolve(first.spec)


def test_without_data_the_tokenizer_knows_bytes() -> None:
    base = bases.load(bases.resolve("scratch:layers=1,width=16,heads=2"))
    assert len(base.tokenizer) == 260
    assert base.tokenizer.decode(base.tokenizer("Grüße").input_ids) == "Grüße"
    assert base.info.licence_class == "permissive"


def test_a_damaged_folder_is_made_again() -> None:
    first = bases.resolve(SMALL, data=TEXTS)
    weights = Path(first.path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert bases.resolve(SMALL, data=TEXTS).digest == first.digest


def test_making_one_leaves_the_random_numbers_alone() -> None:
    import torch

    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    bases.resolve(SMALL)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("scratch:layer=2", "did you mean 'layers'"),
        ("scratch:layers=0,width=x", "--layers.*--width"),
        ("scratch:width=30,heads=4", "multiple"),
        ("scratch:heads=4,kv_heads=3", "must divide"),
        ("scratch:layers", "name=value"),
    ],
)
def test_faults_are_named(spec: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        bases.resolve(spec)


def test_a_full_disk_is_named_and_leaves_nothing_behind(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rung.bases import scratch

    def fill(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch, "write", fill)
    with pytest.raises(StoreError, match="No space left.*bytes are free"):
        bases.resolve(SMALL)
    assert [p for p in (empty_home / "cache" / "bases").iterdir() if p.is_dir()] == []


@pytest.mark.parametrize(
    ("texts", "context"),
    [
        (["a"], 512),
        (["ab " * 300], 1024),
        (["é" * 1000], 4096),
        (["long " * 9000], 8192),
        (["\n".join("x" * 80)], 2048),  # turns of a letter, each between its markers
    ],
)
def test_the_context_holds_the_longest_text(texts: list[str], context: int) -> None:
    base = bases.resolve("scratch:layers=1,width=16,heads=2", data=texts)
    assert base.extra["context"] == str(context)
    assert bases.resolve(base.spec) == base
    asked = bases.resolve("scratch:layers=1,width=16,heads=2,context=128", data=texts)
    assert asked.extra["context"] == "128"
