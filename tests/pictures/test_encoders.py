"""Encoders against transformers' own models, on the same weights and pixels."""

from __future__ import annotations

import pytest
import torch

from rung import bases
from rung.errors import ArtefactError, MethodMisfit
from rung.pictures.encoder import load
from tests.pictures.conftest import KINDS, SIDE, made

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def theirs(kind, model, pixels):
    """What transformers gives: (tokens, pooled)."""
    with torch.no_grad():
        if kind in ("clip", "siglip"):
            whole = model.get_image_features(pixel_values=pixels)
            pooled = whole if isinstance(whole, torch.Tensor) else whole.pooler_output
            return model.vision_model(pixel_values=pixels).last_hidden_state, pooled
        out = model(pixels)
        tokens = out.last_hidden_state
        if kind == "vit":  # whose pooler is a layer of its own, which few weights have
            return tokens, tokens[:, 0]
        tokens = tokens if tokens.dim() == 3 else tokens.flatten(2).transpose(1, 2)
        return tokens, out.pooler_output.flatten(1)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_pooled_vectors_are_those_of_transformers(kind, encoder_folder, pixels):
    encoder = load(bases.resolve(str(encoder_folder(kind))))
    tokens, pooled = theirs(kind, made(kind), pixels)
    with torch.no_grad():
        assert torch.allclose(encoder.tokens(pixels), tokens, atol=TOLERANCE, rtol=0)
        assert torch.allclose(encoder.pooled(pixels), pooled, atol=TOLERANCE, rtol=0)
    assert (encoder.token_count, encoder.token_width) == tuple(tokens.shape[1:])
    assert encoder.width == pooled.shape[1]


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_from_a_block_gives_the_same(kind, encoder_folder, pixels):
    encoder = load(bases.resolve(str(encoder_folder(kind))))
    cut = len(encoder.blocks) - 1
    with torch.no_grad():
        states = encoder.between(pixels, cut)
        again = encoder.finish(encoder.run(states, cut))[1]
        assert torch.equal(again, encoder.pooled(pixels))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_text_vectors_are_those_of_transformers(kind, encoder_folder):
    encoder = load(bases.resolve(str(encoder_folder(kind))))
    texts = ["a photo of red", "blue", "a photo of an red &amp; green"]
    given = encoder.tokenizer(
        ["a photo of red", "blue", "a photo of an red & green"], padding="max_length", max_length=16,
        truncation=True, return_tensors="pt",
    )  # fmt: skip
    mask = {"attention_mask": given["attention_mask"]} if kind == "clip" else {}
    with torch.no_grad():
        whole = made(kind).get_text_features(input_ids=given["input_ids"], **mask)
    expected = whole if isinstance(whole, torch.Tensor) else whole.pooler_output
    assert torch.allclose(encoder.texts(texts), expected, atol=TOLERANCE, rtol=0)


def test_an_encoder_without_a_text_tower_refuses_texts_in_one_line(encoder_folder):
    encoder = load(bases.resolve(str(encoder_folder("vit"))))
    with pytest.raises(MethodMisfit, match="reads no texts, only pictures"):
        encoder.texts(["red"])


def test_weights_that_are_missing_are_named(encoder_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    source = encoder_folder("dinov2")
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    kept = load_file(tmp_path / "model.safetensors")
    kept.pop("layernorm.weight")
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtefactError, match="lacks 1 weights of a vision encoder, such as layernorm"):
        load(bases.resolve(str(tmp_path)))


def test_a_language_model_is_no_vision_encoder(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert bases.reads(tmp_path) == "text"


def test_what_a_base_reads_is_known_without_loading_it(encoder_folder):
    assert bases.reads_spec("efficientnet-lite0") == bases.reads_spec("clip-vit-b32") == "pictures"
    assert bases.reads_spec(str(encoder_folder("convnext"))) == "pictures"
    assert bases.reads_spec("smollm2-135m") == bases.reads_spec("no-such-base") == "text"


def test_every_family_is_known_by_name_and_by_shape():
    from rung.bases.modality import VISION
    from rung.pictures.families import FAMILIES

    assert set(VISION) == set(FAMILIES)
