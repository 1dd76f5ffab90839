"""GGUF: converted once, the same model after as before; damaged files are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rung import bases
from rung.bases.header import read_header
from rung.errors import ArtefactError


def rotate(weight, heads: int):
    """A query or key projection in GGUF's order of rows, where the halves of a rotation alternate."""
    rows, columns = weight.shape
    split = weight.reshape(heads, 2, rows // heads // 2, columns)
    return split.swapaxes(1, 2).reshape(rows, columns)


def write_gguf(folder: Path, target: Path, **fields: bool) -> None:
    """The tiny Llama in `folder` as a GGUF in float32."""
    import gguf
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocab = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_tokens)
    merges = tokenizer.backend_tokenizer.model.__getstate__()
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_name("tiny")
    writer.add_license("mit")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(vocab))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(vocab)
    writer.add_token_types([3 if t in special else 1 for t in vocab])
    writer.add_token_merges([" ".join(m) for m in json.loads(merges)["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_bos_token_id(tokenizer.convert_tokens_to_ids("<|im_start|>"))
    writer.add_add_bos_token(fields.get("adds_bos", False))
    writer.add_chat_template(tokenizer.chat_template)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "embed_tokens": "token_embd",
        "model.norm": "output_norm", "lm_head": "output",
    }  # fmt: skip
    for name, weight in load_file(folder / "model.safetensors").items():
        if "q_proj" in name or "k_proj" in name:
            weight = rotate(weight, 4 if "q_proj" in name else 2)
        for old, new in names.items():
            name = name.replace(old, new)
        writer.add_tensor(name.replace("model.layers.", "blk.").replace("model.", ""), weight.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def tiny_gguf(tiny_original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.f32.gguf"
    write_gguf(tiny_original, path)
    return path


def test_the_header_is_read_without_the_weights(tiny_gguf: Path, tiny_original: Path) -> None:
    from safetensors.numpy import load_file

    header = read_header(tiny_gguf)
    assert header["general.license"] == "mit"
    assert header["tokenizer.ggml.pre"] == "smollm"
    assert header["tokenizer.ggml.add_bos_token"] is False
    weights = load_file(tiny_original / "model.safetensors")
    assert header["parameters"] == sum(w.size for w in weights.values())


def test_a_gguf_converts_to_the_same_model(
    tiny_gguf: Path, tiny_original: Path, empty_home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    info = bases.resolve(str(tiny_gguf))
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == "converting tiny.f32.gguf to safetensors, once\n"
    assert Path(info.path).is_relative_to(empty_home)
    assert (info.name, info.licence, info.licence_class) == ("tiny.f32", "mit", "permissive")
    base, original = bases.load(info), bases.load(bases.resolve(str(tiny_original)))
    text = "a tiny fox  12 jumps<|im_end|>"
    ids = base.tokenizer(text, return_tensors="pt").input_ids
    assert ids.tolist() == original.tokenizer(text, return_tensors="pt").input_ids.tolist()
    assert base.tokenizer.chat_template == original.tokenizer.chat_template
    assert base.tokenizer.pad_token == "<|pad|>"
    with torch.no_grad():
        difference = base.model(ids).logits - original.model(ids).logits
    assert difference.abs().max() < 1e-5


def test_the_second_time_nothing_is_converted(
    tiny_gguf: Path, empty_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = bases.resolve(str(tiny_gguf))
    monkeypatch.setattr("rung.bases.gguf.write", lambda *a: pytest.fail("converted again"))
    assert bases.resolve(str(tiny_gguf)) == info
    copy = tmp_path / "folder" / "copy.gguf"
    copy.parent.mkdir()
    shutil.copy(tiny_gguf, copy)
    assert bases.resolve(str(copy.parent)).path == info.path  # the content counts, not the name


def test_a_damaged_conversion_is_made_again(tiny_gguf: Path, empty_home: Path) -> None:
    info = bases.resolve(str(tiny_gguf))
    weights = Path(info.path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    left = Path(info.path).with_name(f".{Path(info.path).name}-killed")
    left.mkdir()
    assert bases.resolve(str(tiny_gguf)) == info
    bases.load(info)
    assert not left.exists()


def test_a_bos_is_added_only_when_the_file_says_so(
    tiny_original: Path, tmp_path: Path, empty_home: Path
) -> None:
    write_gguf(tiny_original, tmp_path / "bos.gguf", adds_bos=True)
    tokenizer = bases.load(bases.resolve(str(tmp_path / "bos.gguf"))).tokenizer
    bos = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert tokenizer("a b").input_ids.count(bos) == 1


def test_damaged_files_are_refused(tiny_gguf: Path, tmp_path: Path, empty_home: Path) -> None:
    whole = tiny_gguf.read_bytes()
    damaged = tmp_path / "damaged.gguf"
    for content, words in (
        (whole[:-4000], "cut short"),
        (whole[:3000], "damaged header"),
        (whole[:8] + b"\xff" * 16 + whole[24:], "damaged header"),
        (b"GGUF", "damaged header"),
        (b"PK" + whole, "not a GGUF"),
        (b"", "not a GGUF"),
    ):
        damaged.write_bytes(content)
        with pytest.raises(ArtefactError, match=words):
            bases.resolve(str(damaged))
    assert not list((empty_home / "cache" / "bases").glob("gguf-*/config.json"))


@pytest.mark.wheel
def test_the_default_base_answers_and_is_converted_once() -> None:
    info = bases.resolve(bases.DEFAULT)
    assert info.digest == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert info.licence_class == "permissive"
    weights = Path(info.path) / "model.safetensors"
    made = weights.stat().st_mtime_ns
    assert bases.resolve(bases.DEFAULT) == info and weights.stat().st_mtime_ns == made
    base = bases.load(info)
    tokenizer = base.tokenizer
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.pad_token == "<|im_end|>"
    assert tokenizer("hello").input_ids == [28120]  # no beginning-of-text token by itself
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    reply = base.model.generate(**ids, max_new_tokens=12, do_sample=False)
    said = tokenizer.decode(reply[0, ids["input_ids"].shape[1] :])
    assert said == "The capital of France is Paris.<|im_end|>"
