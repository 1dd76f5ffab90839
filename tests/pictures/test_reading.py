"""Reading pictures: what is read, how, and what is refused in which words."""

from __future__ import annotations

import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from rung.errors import DataError
from rung.pictures import reading
from rung.pictures.reading import decode, picture, read
from tests.pictures.conftest import as_bytes, drawn


def pixels(data: bytes, name: str = "x.png") -> np.ndarray:
    return np.asarray(decode(data, name).image)


def png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that it has no pixels for."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")


def test_a_picture_is_turned_as_its_exif_says():
    image = drawn((200, 20, 20), (40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    assert pixels(as_bytes(image, "JPEG", exif=exif), "x.jpg").shape == (40, 20, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_composed_onto_white(mode):
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image = clear.convert(mode) if mode != "P" else clear.convert("P")
    settings = {"transparency": int(np.asarray(image)[0, 0])} if mode == "P" else {}
    assert (pixels(as_bytes(image, **settings)) == 255).all()


def test_half_transparent_is_half_the_ground():
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert np.abs(pixels(as_bytes(image)).astype(int) - 127).max() <= 1


def test_sixteen_bits_become_eight_by_division_not_by_clipping():
    levels = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    assert pixels(as_bytes(Image.fromarray(levels)))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_and_grey_become_rgb():
    cmyk = Image.new("RGB", (8, 8), (250, 10, 10)).convert("CMYK")
    red = pixels(as_bytes(cmyk, "JPEG"), "x.jpg")
    assert red[0, 0, 0] > 200 and red[0, 0, 1] < 60
    assert pixels(as_bytes(Image.new("L", (3, 3), 77))).tolist() == [[[77] * 3] * 3] * 3


def test_of_an_animation_the_first_frame_is_read_and_a_note_says_so():
    frames = [Image.new("RGB", (4, 4), (c, 0, 0)) for c in (255, 0, 9)]
    data = as_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    found = decode(data, "x.gif")
    assert np.asarray(found.image)[0, 0, 0] == 255
    assert found.notes == ("x.gif: is animated or has pages, of 3 the first one is read",)


def test_a_wrong_suffix_is_told_and_the_picture_read():
    assert decode(as_bytes(drawn((1, 2, 3))), "x.jpg").notes == (
        "x.jpg: is a PNG in spite of its name",
    )


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"GIF or not, this is a text", "is no picture that can be read"),
        (png(50_000, 10), "50,000 x 10 pixels are too many"),
        (png(9_000, 9_000), "9,000 x 9,000 pixels are too many"),
        (png(60_000, 60_000), "pixels"),
        (as_bytes(drawn((9, 9, 9), (300, 300)), "JPEG")[:-4000], "cut short or damaged"),
        (as_bytes(drawn((9, 9, 9)))[:60], "cut short or damaged"),
        (as_bytes(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating point"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(data, told):
    with pytest.raises(DataError, match=told) as fault:
        read(picture(data, "photo.dat")[0])
    assert "photo.dat" in str(fault.value) and "\n" not in str(fault.value)


def test_a_huge_picture_is_refused_before_a_pixel_is_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match="too many"):
        picture(png(12_000, 9_000), "x.png")


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_BYTES", 100)
    (tmp_path / "x.png").write_bytes(b"\0" * 5000)
    with pytest.raises(DataError, match="too much for one picture"):
        picture(str(tmp_path / "x.png"))


def test_equal_files_are_equal_pictures_wherever_they_lie(tmp_path):
    data = as_bytes(drawn((1, 200, 3)))
    (tmp_path / "a.png").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("in/b.png", data)
    found = [
        picture(place)[0] for place in (str(tmp_path / "a.png"), f"{tmp_path / 'b.zip'}!in/b.png", data)
    ]
    assert len(set(found)) == 1
    assert len({np.asarray(read(one)).tobytes() for one in found}) == 1


def test_a_file_that_changed_meanwhile_is_told(tmp_path):
    (tmp_path / "a.png").write_bytes(as_bytes(drawn((1, 2, 3))))
    found, _ = picture(str(tmp_path / "a.png"))
    (tmp_path / "a.png").write_bytes(as_bytes(drawn((3, 2, 1))))
    with pytest.raises(DataError, match="has changed"):
        read(found)
