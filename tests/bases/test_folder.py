"""A local folder: loaded frozen, identified by its content, refused when unsafe or damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rung import bases
from rung.errors import ArtefactError, BaseNotFound, ConfigError

pytestmark = pytest.mark.usefixtures("empty_home")


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text())
    content.update(values)
    path.write_text(json.dumps(content))


def test_a_folder_loads_frozen_in_eval_mode(tiny: Path) -> None:
    info = bases.resolve(str(tiny))
    base = bases.load(info)
    assert info.name == "tiny-llama"
    assert info.path == info.spec == str(tiny)
    assert (info.licence, info.licence_class) == ("cc-by-nc-4.0", "non-commercial")
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert base.tokenizer.eos_token == "<|im_end|>"
    assert base.info is info


def test_the_dtype_is_the_one_asked_for(tiny: Path) -> None:
    import torch

    info = bases.resolve(str(tiny))
    assert bases.load(info, dtype="bfloat16").model.dtype == torch.bfloat16
    assert bases.load(info, dtype="auto").model.dtype == torch.float32
    with pytest.raises(ConfigError, match="dtype"):
        bases.load(info, dtype="int3")
    with pytest.raises(ConfigError, match="--device"):
        bases.load(info, device="nonsense")


def test_the_digest_follows_the_weights_not_the_place(tiny: Path, tmp_path: Path) -> None:
    first = bases.resolve(str(tiny)).digest
    moved = tiny.rename(tmp_path / "elsewhere")
    assert bases.resolve(str(moved)).digest == first
    change(moved / "config.json", rms_norm_eps=0.5)
    assert bases.resolve(str(moved)).digest != first


def test_digests_are_not_computed_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bases.resolve(str(tiny)).digest
    monkeypatch.setattr("rung.bases.cache.sha256", lambda path: pytest.fail("hashed again"))
    assert bases.resolve(str(tiny)).digest == first


def test_a_folder_with_only_pickles_is_refused(tiny: Path) -> None:
    (tiny / "model.safetensors").unlink()
    (tiny / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ArtefactError, match=r"pickle \(pytorch_model.bin\)"):
        bases.resolve(str(tiny))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_in_a_configuration_is_refused(tiny: Path, name: str) -> None:
    change(tiny / name, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    (tiny / "modeling_evil.py").write_text("raise SystemExit('executed')")
    with pytest.raises(ArtefactError, match="auto_map"):
        bases.resolve(str(tiny))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("nested", [False, True])
def test_an_attention_override_is_refused(tiny: Path, key: str, nested: bool) -> None:
    override = {key: "somebody/kernel"}
    change(tiny / "config.json", **({"text_config": override} if nested else override))
    with pytest.raises(ArtefactError, match=key):
        bases.resolve(str(tiny))


def test_a_folder_that_turned_unsafe_is_refused_at_loading(tiny: Path) -> None:
    info = bases.resolve(str(tiny))
    change(tiny / "config.json", auto_map={"AutoConfig": "x.Y"})
    with pytest.raises(ArtefactError, match="auto_map"):
        bases.load(info)


def test_truncated_and_lying_safetensors_are_refused(tiny: Path) -> None:
    file = tiny / "model.safetensors"
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    last = max((k for k in header if k != "__metadata__"), key=lambda k: header[k]["data_offsets"])
    header[last]["data_offsets"][1] += 4096
    lying = json.dumps(header).encode()
    for content in (
        whole[:-7],
        whole[:5],
        b"",
        (2**60).to_bytes(8, "little") + whole[8:],
        len(lying).to_bytes(8, "little") + lying + whole[8 + length :],
    ):
        file.write_bytes(content)
        with pytest.raises(ArtefactError, match="damaged or cut short"):
            bases.resolve(str(tiny))


def test_shards_must_lie_beside_their_index(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny.parent / "outside.safetensors")
    index = tiny / "model.safetensors.index.json"
    for name, reason in (("../outside.safetensors", "no file beside"), ("a.safetensors", "lacks")):
        index.write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
        with pytest.raises(ArtefactError, match=reason):
            bases.resolve(str(tiny))


def test_sharded_weights_load(tiny: Path) -> None:
    import torch

    info = bases.resolve(str(tiny))
    whole = bases.load(info).model
    (tiny / "model.safetensors").unlink()
    whole.save_pretrained(tiny, max_shard_size="20KB")
    assert len(list(tiny.glob("model-*.safetensors"))) > 1
    again = bases.load(bases.resolve(str(tiny))).model
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])


def test_missing_weights_are_not_filled_with_random_numbers(tiny: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(tiny / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tiny / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtefactError, match="lacks 1 of the weights.*up_proj"):
        bases.load(bases.resolve(str(tiny)))


def test_another_kind_of_model_is_named(tiny: Path) -> None:
    change(tiny / "config.json", model_type="no-such-architecture")
    with pytest.raises(ArtefactError, match="cannot be loaded as a causal language model"):
        bases.load(bases.resolve(str(tiny)))


def test_an_adapter_is_not_a_base(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtefactError, match="adapter, not a base"):
        bases.resolve(str(tmp_path))


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(BaseNotFound, match="did you mean 'smollm2-135m'"):
        bases.resolve("smolm2-135m")
    with pytest.raises(BaseNotFound, match="rung bases lists"):
        bases.resolve("xyzzy")
    with pytest.raises(BaseNotFound, match="API"):
        bases.resolve("gpt-4o")


def test_every_error_is_one_line(tmp_path: Path) -> None:
    for spec in ("", "nothing", "./nowhere", "wheel:", "scratch:layers=none", str(tmp_path)):
        with pytest.raises((BaseNotFound, ArtefactError, ConfigError)) as caught:
            bases.resolve(spec)
        assert "\n" not in str(caught.value)
