"""Preprocessing against transformers' processors with Pillow, to the bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.errors import ArtefactError
from rung.pictures.preprocessing import Preprocessing
from tests.pictures import conftest
from tests.pictures.conftest import drawn

SETTINGS = {
    "clip": conftest.settings("clip"),
    "siglip": conftest.settings("siglip"),
    "vit": conftest.settings("vit"),
    "dinov2": conftest.settings("dinov2") | {"size": {"shortest_edge": 40}},
    "convnext": conftest.settings("convnext"),
    "convnext-warped": {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 384},
    },
    "cut-only": conftest.settings("clip") | {"do_resize": False},
    "old": {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "size": 32,
        "crop_size": 32,
        "resample": 3,
    },
}


def theirs(said: dict):
    """transformers' processor with Pillow for the same file."""
    import transformers as hf

    name = said.get("image_processor_type") or "CLIPImageProcessor"
    own = {k: v for k, v in said.items() if not k.endswith("_type")}
    return getattr(hf, f"{name}Pil")(**own)


@pytest.mark.parametrize("name", SETTINGS)
@given(wide=st.integers(20, 90), high=st.integers(20, 90))
@settings(max_examples=8, deadline=None)
def test_pixels_are_those_of_transformers_to_the_bit(name, wide, high, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS[name]))
    image = drawn((90, 140, 60), (wide, high))
    expected = theirs(SETTINGS[name])(images=image, return_tensors="np")["pixel_values"][0]
    found = Preprocessing.of(folder).array(image)
    assert found.dtype == expected.dtype == np.float32
    assert np.array_equal(found, expected)


def test_the_middle_is_cut_one_column_left_of_where_open_clip_cuts(tmp_path):
    """A surplus that leaves 3 when divided by 4: transformers rounds the start down, open_clip up."""
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SETTINGS["cut-only"]))
    levels = np.zeros((32, 32 + 7, 3), np.uint8)
    levels[:, :, 0] = np.arange(39)
    from PIL import Image

    cut = np.asarray(Preprocessing.of(tmp_path).resized(Image.fromarray(levels)))
    assert cut[0, 0, 0] == 3 and cut[0, -1, 0] == 34


def test_efficientnet_pixels_are_counted_by_hand(tmp_path):
    """Side 256 and the middle 224 of a square that needs no resizing; (level - 127) / 128."""
    from rung.bases.efficientnet import PREPROCESSING

    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING))
    levels = np.zeros((256, 256, 3), np.uint8)
    levels[16, 16], levels[239, 239], levels[15, 15] = (255, 127, 0), (1, 2, 3), (9, 9, 9)
    from PIL import Image

    found = Preprocessing.of(tmp_path).array(Image.fromarray(levels))
    assert found.shape == (3, 224, 224)
    assert found[:, 0, 0] == pytest.approx([1, 0, -127 / 128], abs=1e-6)
    assert found[:, -1, -1] == pytest.approx([-126 / 128, -125 / 128, -124 / 128], abs=1e-6)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"image_processor_type": "LlavaImageProcessor"}, "known are those of"),
        ({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 10**9}}, "size"),
        ({"image_processor_type": "CLIPImageProcessor", "image_std": [0, 1, 1]}, "zero"),
        ({"image_processor_type": "CLIPImageProcessor", "image_mean": [1, 2]}, "three colours"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": "224"}}, "size"),
        ({"image_processor_type": "CLIPImageProcessor", "do_pad": True}, "pads"),
    ],
)
def test_numbers_that_make_no_sense_are_named(said, told, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(ArtefactError, match=told):
        Preprocessing.of(tmp_path)
