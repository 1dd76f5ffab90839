"""GGUF files: read back by transformers, whose reader undoes what ours does by code of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rung import methods
from rung.bases import gguf_rope
from rung.bases.gguf import read_model
from rung.bases.loaded import LoadedBase
from rung.errors import ArtefactError, ConfigError
from rung.exports import get, gguf_model
from rung.exports.base import Source
from rung.exports.gguf_vocabulary import cutting
from rung.exports.proof import prove
from rung.forward.bank import Bank
from rung.types import BaseInfo
from tests.models import tiny_adapter, tiny_config
from tests.tokens import tiny_tokenizer

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2")
SIZE = 272  # of the vocabulary: more than the tokenizer has


def config_of(family: str):
    """A tiny configuration whose rows fill whole blocks."""
    import transformers

    if family == "phi3":
        config = transformers.Phi3Config(
            hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0,
        )  # fmt: skip
    else:
        config = tiny_config(family)
    # What transformers' reader takes for granted, whatever the file says.
    if family == "qwen3":
        config.head_dim = 128
    if family == "gpt2":
        config.n_positions = 1024
    config.vocab_size = SIZE
    if family == "mistral":
        config.sliding_window = None
    config.bos_token_id, config.eos_token_id = None, 1
    return config


def model_of(config):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def source_of(family: str, folder, method: str = "lora", config=None) -> Source:
    """A tuned tiny model with the files that its folder has."""
    bank = Bank(model_of(config or config_of(family)))
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [257]}))
    (folder / "README.md").write_text("# tiny\n")
    info = BaseInfo("tiny", "tiny", str(folder), "0" * 64)
    return Source(
        folder=folder, about={"name": "tiny"}, base=LoadedBase(bank.model, tokenizer, info), bank=bank,
        method=methods.get(method), adapter=tiny_adapter(bank, method),
    )  # fmt: skip


def written(source: Source, folder, dtype: str = "float32"):
    folder.mkdir()
    export = get("gguf")
    export.write(source, folder, dtype)
    return prove(source, export, export.logits(source, folder, dtype), dtype)


@pytest.fixture
def places(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    return own, tmp_path / "made"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_is_built_in_and_its_logits_are_the_models(family, places):
    own, made = places
    assert written(source_of(family, own), made).difference < 1e-3


@pytest.mark.parametrize("method", ["ia3", "last_layers"])
def test_other_methods_too(method, places):
    own, made = places
    assert written(source_of("llama", own, method), made).difference < 1e-3


def test_llama3s_factors_of_rotation_travel(places):
    own, made = places
    config = config_of("llama")
    config.rope_parameters = {
        "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    }  # fmt: skip
    source = source_of("llama", own, config=config)
    made.mkdir()
    get("gguf").write(source, made, "float32")
    read = fields(made / "model.gguf")[1]
    inverse = source.bank.model.model.rotary_emb.inv_freq.numpy()
    plain = 10_000.0 ** -(np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(plain / read["rope_freqs.weight"], inverse, rtol=1e-5)


SCALINGS = {
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0},
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_a_scaling_of_rotations_is_read_back_as_it_was_written(kind, places):
    own, made = places
    config = config_of("llama")
    config.rope_parameters = {
        "rope_type": kind, "rope_theta": 10_000.0, **SCALINGS[kind],
        **({} if kind == "linear" else {"original_max_position_embeddings": 64}),
    }  # fmt: skip
    source = source_of("llama", own, config=config)
    assert written(source, made).difference < 1e-3
    read = read_model(made / "model.gguf", exact=True)
    ours, theirs = read.model.rotary_emb, source.bank.model.model.rotary_emb
    np.testing.assert_allclose(ours.inv_freq.numpy(), theirs.inv_freq.numpy(), rtol=1e-5)
    assert ours.attention_scaling == pytest.approx(theirs.attention_scaling)


@pytest.mark.parametrize(
    "others", [{}, {"rope.scaling.type": "longrope"}, {"rope_others": "rope_factors"}]
)
def test_a_scaling_that_is_not_known_is_refused(others):
    config, factors = config_of("llama"), (1.0, 1.5, 7.0, 3.0)
    header = {"general.architecture": "llama", **({} if others else {"rope_freqs": factors})}
    header |= {
        key.replace("rope.scaling", "llama.rope.scaling"): value for key, value in others.items()
    }
    with pytest.raises(ValueError, match="take its safetensors"):
        gguf_rope.scale(config, header)


def test_factors_that_change_nothing_are_no_scaling():
    config = config_of("llama")
    before = dict(config.rope_parameters)
    gguf_rope.scale(config, {"general.architecture": "llama", "rope_freqs": (1.0,) * 4})
    assert config.rope_parameters == before


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_every_precision_holds_each_weight_within_its_step(dtype, places):
    own, made = places
    written(source_of("llama", own), made, dtype)
    smaller = {"float16": 0.7, "bfloat16": 0.7, "q8_0": 0.6}.get(dtype, 0.5)
    plain = made.parent / "plain"
    written(source_of("llama", own), plain)
    assert size(made) < smaller * size(plain) + 30_000  # the vocabulary stays as it is


def size(folder) -> int:
    return (folder / "model.gguf").stat().st_size


def test_a_wrong_permutation_is_caught(places, monkeypatch):
    own, made = places
    monkeypatch.setattr(gguf_model, "permute", lambda values, heads: values)
    with pytest.raises(ArtefactError, match="answers differ"):
        written(source_of("llama", own), made)


def fields(file):
    """What a GGUF says, by the package's own reader: values by key, tensors by name."""
    import gguf

    reader = gguf.GGUFReader(file)
    values = {key: field.contents() for key, field in reader.fields.items()}
    return values, {t.name: t.data for t in reader.tensors}


def test_tokenizer_template_and_stops_travel(places):
    own, made = places
    written(source_of("llama", own), made)
    said, _ = fields(made / "model.gguf")
    tokenizer = tiny_tokenizer()
    assert said["general.architecture"] == "llama" and said["llama.block_count"] == 3
    assert said["tokenizer.ggml.model"] == "gpt2" and said["tokenizer.ggml.pre"] == "gpt-2"
    tokens = said["tokenizer.ggml.tokens"]
    assert len(tokens) == SIZE and tokens[258:] == [f"[PAD{i}]" for i in range(258, SIZE)]
    assert all(tokens[i] == token for token, i in tokenizer.get_vocab().items())
    kinds = said["tokenizer.ggml.token_type"]
    ends = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert kinds[ends] == 3 and kinds[10] == 1 and kinds[SIZE - 1] == 5
    assert said["tokenizer.ggml.eos_token_id"] == said["tokenizer.ggml.eot_token_id"] == ends
    assert said["tokenizer.chat_template"] == tokenizer.chat_template
    assert said["tokenizer.ggml.add_bos_token"] is False


def test_what_llama_cpp_cannot_express_is_refused_by_name(places):
    own, _ = places
    export = get("gguf")
    assert "type bloom cannot be written" in export.misfit(source_of("bloom", own))
    config = config_of("mistral")
    config.sliding_window = 5
    assert "no sliding window" in export.misfit(source_of("mistral", own, config=config))


def test_a_cut_without_a_name_is_refused():
    split = {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated"}
    with pytest.raises(ConfigError, match="no name for how this tokenizer cuts"):
        cutting({"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel"}]})
