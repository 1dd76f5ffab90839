"""Reading pictures safely: bytes -> an RGB picture of Pillow's, the right way up.

A picture's size is asked of the header before a pixel is decoded, and its kind of its content, whatever
the file is called. Alpha is composed onto `GROUND`, 16 bits become 8 by division, CMYK and grey become
RGB. Of an animation the first frame is read, and a note says so.
"""

from __future__ import annotations

import base64
import hashlib
import io
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.errors import ConfigError, DataError
from rung.pictures.perceptual_hash import perceptual_hash
from rung.types import Picture

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP",
    ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
MAX_BYTES = 64 << 20  # of a file
MAX_PIXELS = 50_000_000  # of a picture, by its header
MAX_SIDE = 20_000  # pixels of the longer side
THUMBNAIL = 64  # pixels of a side, of what is decoded to see that it can be
GROUND = (255, 255, 255)  # what shows through where a picture is transparent
MISSING = "reading pictures needs Pillow: pip install 'rung[pictures]'"
MEMBER = "!"  # between an archive and a file in it, in a picture's place


@dataclass(frozen=True)
class Read:
    """A picture that was read: RGB of 8 bits, and what is worth knowing of how it was read."""

    image: Image
    notes: tuple[str, ...] = ()


def picture(place: str | bytes, name: str = "") -> tuple[Picture, tuple[str, ...]]:
    """A reference to a picture that can be read, and notes on how it is read.

    It is decoded once, small, so that one that is damaged is told here and not in the middle of a run.

    Args:
        place: a file's path, `ARCHIVE.zip!MEMBER`, or the bytes themselves.
        name: what messages call it, for bytes.

    Raises:
        DataError: as `read`.
    """
    name = name or _named(place)
    data = contents(place, name)
    opened, notes = header(data, name)
    from PIL import ImageOps

    try:
        opened.draft("RGB", (THUMBNAIL, THUMBNAIL))
        opened.load()
        small = ImageOps.exif_transpose(opened)
    except Exception as fault:  # Pillow's readers raise whatever struct and zlib raise
        raise DataError(f"{name}: the picture is cut short or damaged: {fault}") from None
    seen = perceptual_hash(_rgb(small, name, GROUND))
    return Picture(hashlib.sha256(data).hexdigest(), place, name, seen), notes


def of_url(url: str, name: str) -> bytes:
    """The bytes of a `data:` URL (RFC 2397) in base64. Nothing is ever fetched.

    Raises:
        DataError: for any other URL, or one that is damaged or too long.
    """
    head, comma, body = url.partition(",")
    if not head.lower().startswith("data:"):
        raise DataError(f"{name}: nothing is fetched: send the picture itself, as a data: URL")
    if not comma or not head.lower().endswith(";base64"):
        raise DataError(f"{name}: the data: URL must read data:image/png;base64,...")
    if len(body) > MAX_BYTES * 4 // 3 + 4:
        raise DataError(f"{name}: has more than {MAX_BYTES >> 20} MB: make it smaller")
    try:
        return base64.b64decode(body, validate=True)
    except ValueError:
        raise DataError(f"{name}: the data: URL is no valid base64") from None


def as_url(picture: Picture) -> str:
    """A picture as a `data:` URL, which `of_url` reads. Raises DataError as `read`."""
    data = contents(picture.place, picture.name)
    opened, _ = header(data, picture.name)
    return f"data:image/{opened.format.lower()};base64,{base64.b64encode(data).decode()}"


def thumbnail(picture: Picture, side: int, most: int) -> str:
    """A small picture as a `data:` URL of a JPEG.

    Args:
        side: pixels of the longer side at most. most: bytes of the JPEG, met by a coarser picture.

    Raises:
        DataError: as `read`.
    """
    image = read(picture)
    image.thumbnail((side, side))
    for quality in (80, 50, 20):
        while True:
            out = io.BytesIO()
            image.save(out, "JPEG", quality=quality)
            if out.tell() <= most:
                return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
            if quality > 20 or max(image.size) <= 16:
                break
            image = image.resize((max(1, image.width // 2), max(1, image.height // 2)))
    raise DataError(f"{picture.name}: no thumbnail of {most:,} bytes can be made")


def contents(place: str | bytes, name: str = "") -> bytes:
    """The bytes at a place. Raises DataError as `picture`."""
    if isinstance(place, bytes):
        data = place
    else:
        archive, mark, member = place.partition(MEMBER)
        inside = bool(mark) and archive.lower().endswith(".zip")
        try:
            data = _member(archive, member) if inside else _file(Path(place))
        except (OSError, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as fault:
            reason = getattr(fault, "strerror", None) or fault
            raise DataError(f"{name or place}: the picture cannot be opened: {reason}") from None
    if len(data) > MAX_BYTES:
        raise DataError(
            f"{name or _named(place)}: the file has more than {MAX_BYTES >> 20} MB, which is too much "
            "for one picture: make it smaller"
        )
    return data


def _file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _member(archive: str, member: str) -> bytes:
    with zipfile.ZipFile(archive) as opened, opened.open(member) as file:
        return file.read(MAX_BYTES + 1)


def _named(place: str | bytes) -> str:
    return "a picture" if isinstance(place, bytes) else place


def read(picture: Picture) -> Image:
    """The RGB picture that a reference names.

    Raises:
        DataError: when it is no picture, damaged, too large, or no longer what it was.
    """
    data = contents(picture.place, picture.name)
    if hashlib.sha256(data).hexdigest() != picture:
        raise DataError(f"{picture.name}: the file has changed since it was read: start again")
    return decode(data, picture.name).image


def header(data: bytes, name: str) -> tuple[Any, tuple[str, ...]]:
    """The picture of Pillow's with nothing decoded yet, and notes.

    Raises:
        DataError: no picture, an unknown kind, or too large by its header.
    """
    if not data:
        raise DataError(f"{name}: the file is empty (0 bytes)")
    opened = _open(data, name)
    width, height = opened.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE or not width * height:
        raise DataError(
            f"{name}: {width:,} x {height:,} pixels are too many (at most {MAX_PIXELS:,}, and "
            f"{MAX_SIDE:,} on a side): make it smaller"
        )
    notes = []
    frames = getattr(opened, "n_frames", 1)
    if frames > 1:
        notes.append(f"{name}: is animated or has pages, of {frames} the first one is read")
    wanted = SUFFIXES.get(Path(name).suffix.lower())
    if wanted is not None and wanted != opened.format:
        notes.append(f"{name}: is a {opened.format} in spite of its name")
    return opened, tuple(notes)


def _open(data: bytes, name: str) -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ConfigError(MISSING) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a size that is refused here in any case
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise DataError(
            f"{name}: is no picture that can be read ({', '.join(FORMATS)}), whatever its name says"
        ) from None
    except Image.DecompressionBombError:
        raise DataError(
            f"{name}: has more than {MAX_PIXELS:,} pixels by its header: make it smaller"
        ) from None
    except Exception as fault:  # Pillow's readers raise whatever struct and zlib raise
        raise DataError(f"{name}: the picture is damaged: {fault}") from None


def decode(data: bytes, name: str, ground: tuple[int, int, int] = GROUND) -> Read:
    """Bytes -> an RGB picture, the right way up.

    Raises:
        DataError: as `header`; or cut short, or of pixels that are no grey levels.
    """
    from PIL import ImageOps

    opened, notes = header(data, name)
    try:
        opened.load()
        turned = ImageOps.exif_transpose(opened)
    except Exception as fault:  # Pillow's readers raise whatever struct and zlib raise
        raise DataError(f"{name}: the picture is cut short or damaged: {fault}") from None
    return Read(_rgb(turned, name, ground), notes)


def _rgb(image: Any, name: str, ground: tuple[int, int, int]) -> Image:
    from PIL import Image

    if image.mode == "F":
        raise DataError(f"{name}: its pixels are floating point numbers: write it in 8 or 16 bits")
    if image.mode.startswith("I"):
        import numpy as np

        levels = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        above = image.convert("RGBA")
        below = Image.new("RGBA", above.size, (*ground, 255))
        return Image.alpha_composite(below, above).convert("RGB")
    return image.convert("RGB")
