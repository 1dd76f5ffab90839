"""Tiny vision encoders made from configurations, and pictures drawn here."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import _prepare

pytest.importorskip("PIL", reason="pictures need Pillow (extra pictures)")

SIDE = 32
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
PROCESSORS = {
    "clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor", "vit": "ViTImageProcessor",
    "dinov2": "BitImageProcessor", "convnext": "ConvNextImageProcessor",
    "resnet": "ConvNextImageProcessor",
}  # fmt: skip
KINDS = tuple(PROCESSORS)
EACH = 14  # pictures of a label
COLOURS = {"red": (210, 40, 40), "green": (40, 210, 40), "blue": (40, 40, 210)}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An empty home for the tests of one file."""
    with pytest.MonkeyPatch.context() as patch:
        home = _prepare(tmp_path_factory.mktemp("pictures") / "home")
        patch.setenv("RUNG_HOME", str(home))
        yield home


def made(kind: str) -> Any:
    """A transformers model of a kind, from a configuration, with random weights."""
    import transformers as hf

    torch.manual_seed(3)
    vision = {**TOWER, "image_size": SIDE, "patch_size": 8}
    text = {**TOWER, "vocab_size": 300, "max_position_embeddings": 16}
    if kind == "clip":
        text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "projection_dim": 24}
        vision |= {"projection_dim": 24}
        config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        return hf.CLIPModel(config).eval()
    if kind == "siglip":
        return hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=vision)).eval()
    if kind == "vit":
        return hf.ViTModel(hf.ViTConfig(**vision)).eval()
    if kind == "dinov2":
        return hf.Dinov2Model(hf.Dinov2Config(**vision)).eval()
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
    if kind == "convnext":
        return hf.ConvNextModel(hf.ConvNextConfig(**sizes)).eval()
    model = hf.ResNetModel(hf.ResNetConfig(embedding_size=8, **sizes, layer_type="basic"))
    for module in model.modules():  # statistics as a training leaves them, not those of no training
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def settings(kind: str) -> dict[str, Any]:
    """A preprocessor_config.json at the tiny models' size."""
    said: dict[str, Any] = {"image_processor_type": PROCESSORS[kind]}
    if kind in ("siglip", "vit"):
        return said | {"size": {"height": SIDE, "width": SIDE}}
    said |= {"size": {"shortest_edge": SIDE}}
    if kind in ("clip", "dinov2"):
        said |= {"crop_size": {"height": SIDE, "width": SIDE}}
    return said


def words_tokenizer(folder: Path, words: list[str]) -> None:
    """A tokenizer of whole words, as the text towers' own vocabularies are too large to make here."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {w: i + 3 for i, w in enumerate(words)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory):
    """kind -> the folder of a tiny encoder, made once."""
    known: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in known:
            known[kind] = folder = tmp_path_factory.mktemp(kind)
            made(kind).save_pretrained(folder)
            (folder / "preprocessor_config.json").write_text(json.dumps(settings(kind)))
            if kind in ("clip", "siglip"):
                words_tokenizer(folder, ["a", "photo", "of", "red", "green", "blue", "an", "&", "."])
        return known[kind]

    return of


def drawn(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30), seed: int = 0) -> Any:
    """A picture of about one colour, with noise of its own."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(seed).integers(-40, 41, (size[1], size[0], 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def as_bytes(image: Any, kind: str = "PNG", **settings: Any) -> bytes:
    """A picture as the bytes of a file."""
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of pictures for each colour."""
    root = tmp_path_factory.mktemp("photos")
    for label, colour in COLOURS.items():
        (root / label).mkdir()
        for i in range(EACH):
            (root / label / f"{i}.png").write_bytes(as_bytes(drawn(colour, seed=i)))
    return root


def tuned(name, method, base, photos, **settings):
    """A model made of photos, a fifth of them each for validation and test."""
    import rung

    settings = {"validation": 0.2, "test": 0.2, "dtype": "float32", "device": "cpu", **settings}
    return rung.tune(name, str(photos), base=str(base), method=method, replace=True, **settings)


def asked(photos, label, number=0):
    """A prompt that asks about one of the photos."""
    from rung.pictures import picture
    from rung.types import Prompt

    found = picture(str(photos / label / f"{number}.png"))[0]
    return Prompt((0,), ({"role": "user", "content": "", "pictures": (found,)},))
