"""Pictures that look alike: found in other sizes, formats and qualities, kept in one part, and told."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from rung.data import DataKnobs, load, split
from rung.pictures import perceptual_hash as hashing
from rung.pictures import picture
from tests.pictures.conftest import as_bytes


def scene(seed, size=(120, 90)):
    """A picture of soft shapes, drawn by chance."""
    rough = np.random.default_rng(seed).integers(0, 256, (6, 7, 3)).astype(np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)


def variants(image):
    """Files of one picture as people keep them."""
    half = image.resize((image.width // 2, image.height // 2))
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter, so it is stored turned the other way
    image.transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    return {
        "jpeg": as_bytes(image, "JPEG", quality=60), "half": as_bytes(half, "JPEG", quality=80),
        "webp": as_bytes(image, "WEBP", quality=70), "turned": turned.getvalue(),
        "alpha": as_bytes(image.convert("RGBA")),
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(8))
def test_files_of_one_picture_look_alike(seed):
    own = picture(as_bytes(scene(seed)))[0].perceptual_hash
    for name, data in variants(scene(seed)).items():
        assert hashing.groups([own, picture(data)[0].perceptual_hash]) == [[0, 1]], name


def test_other_pictures_do_not_whatever_their_number():
    several = [hashing.perceptual_hash(scene(seed)) for seed in range(300)]
    assert hashing.groups(several) == []
    assert hashing.groups([*several, several[7], b"", several[9], b""]) == [[7, 300], [9, 302]]


def test_pictures_without_edges_are_told_apart_by_their_colour():
    flat = [Image.new("RGB", (40, 40), colour) for colour in ("white", "black", "navy", "#fefefe")]
    assert hashing.groups([hashing.perceptual_hash(one) for one in flat]) == [[0, 3]]


def test_groups_are_those_of_comparing_each_with_each():
    """Against the definition, on hashes that differ in few bits."""
    draw = np.random.default_rng(3)
    table = np.zeros((60, 56), np.uint8)
    for row in table:
        for bit in draw.choice(64, draw.integers(0, 8), replace=False):
            row[bit // 8] ^= 1 << (bit % 8)
        row[8:] = draw.choice([100, 118])
    bits = np.unpackbits(table[:, None, :8] ^ table[None, :, :8], axis=2).sum(2)
    levels = np.abs(table[:, None, 8:].astype(int) - table[None, :, 8:]).mean(2)
    near = (bits <= hashing.MAX_BITS) & (levels <= hashing.MAX_LEVELS)
    reached = near.copy()
    for _ in range(7):
        reached = (reached.astype(int) @ reached.astype(int)) > 0
    expected = {tuple(np.flatnonzero(row)) for row in reached if row.sum() > 1}
    assert {tuple(sorted(g)) for g in hashing.groups([row.tobytes() for row in table])} == expected


@pytest.fixture
def photos(tmp_path):
    """Twenty pictures, each there again as a smaller JPEG; the first under another label."""
    for seed in range(20):
        for label in ("day", "night"):
            (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
        label = ("day", "night")[seed % 2]
        copy = ("day", "night")[(seed + (seed == 0)) % 2]
        (tmp_path / "photos" / label / f"{seed:02}.png").write_bytes(as_bytes(scene(seed)))
        data = variants(scene(seed))["half"]
        (tmp_path / "photos" / copy / f"{seed:02}-small.jpg").write_bytes(data)
    return tmp_path / "photos"


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_look_alike_fall_into_one_part_and_are_told(photos, seed):
    dataset = load(DataKnobs(data=str(photos)))
    assert dataset.duplicates.count == 0
    (told,) = [p for p in dataset.problems if "look like another one" in p.message]
    assert told.message.startswith("20 pictures look like another one (day/00.png ~ night/00-sma")
    assert told.message.endswith("; 1 of 20 groups carry different labels") and len(told.rows) == 20
    parts = split(dataset, DataKnobs(data="x", validation=0.3, test=0.3, split_seed=seed))
    where = {}
    for name, examples in parts:
        for example in examples:
            where.setdefault(example.origin.split("/")[1][:2], set()).add(name)
    assert len(where) == 20 and all(len(names) == 1 for names in where.values())
    assert not [p for p in parts.problems if p.severity == "error"]


def test_a_set_of_its_own_that_looks_like_training_is_told(photos, tmp_path):
    held = tmp_path / "held"
    for label in ("day", "night"):
        (held / label).mkdir(parents=True)
    (held / "day" / "new.png").write_bytes(as_bytes(scene(99)))
    (held / "night" / "seen.webp").write_bytes(variants(scene(3))["webp"])
    knobs = DataKnobs(data=str(photos), test_data=str(held))
    told = [p.message for p in split(load(knobs), knobs).problems]
    wanted = "1 of 2 test pictures look like pictures of training (night/seen.webp ~ "
    assert any(wanted in t for t in told)
