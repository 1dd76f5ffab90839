"""Preprocessing of pictures: an RGB picture -> what an encoder reads, by its processor's numbers.

The numbers are those of the encoder's `preprocessor_config.json`; the arithmetic follows transformers'
processors with Pillow, to the bit. open_clip and torchvision differ: where the surplus of the longer
side leaves 3 when divided by 4, open_clip cuts the middle out one column further right, and resizing
by torchvision differs by up to 2 grey levels. Training and serving both go through here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.bases.folder import read_json
from rung.errors import ArtefactError
from rung.pictures.reading import GROUND

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

FILE = "preprocessor_config.json"
WARPED_FROM = 384  # pixels: from this side on ConvNeXT's processor warps to a square and cuts nothing
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
HALF = ([0.5] * 3, [0.5] * 3)
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers
MAX_SIDE = 2048  # pixels that an encoder may ask for
MAX_RATIO = 100  # of a picture's sides, where the longer one follows from the shorter


@dataclass(frozen=True)
class _Defaults:
    """What transformers' processor of a kind assumes where the file says nothing."""

    size: dict[str, int]
    crops: bool
    resample: int
    numbers: tuple[list[float], list[float]]


PROCESSORS = {
    "CLIP": _Defaults({"shortest_edge": 224}, True, BICUBIC, CLIP),
    "Bit": _Defaults({"shortest_edge": 224}, True, BICUBIC, CLIP),
    "ConvNext": _Defaults({"shortest_edge": 384}, False, BICUBIC, HALF),
    "Siglip": _Defaults({"height": 224, "width": 224}, False, BICUBIC, HALF),
    "ViT": _Defaults({"height": 224, "width": 224}, False, BILINEAR, HALF),
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The numbers of a preprocessing.

    Attributes:
        shortest: pixels of the shorter side after resizing; None resizes to `size`.
        size: (height, width) after resizing, where `shortest` is None; None for both resizes nothing.
        crop: (height, width) cut out of the middle; None cuts nothing.
        resample: Pillow's number of the filter.
        scale: what grey levels of 0 to 255 are multiplied by; None leaves them.
        mean, std: by channel, after scaling; None normalises nothing.
        ground: what transparent pictures are composed onto.
    """

    shortest: int | None
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: int
    scale: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    ground: tuple[int, int, int] = GROUND

    @classmethod
    def of(cls, folder: Path) -> Preprocessing:
        """What an encoder's folder says.

        Raises:
            ArtefactError: the file is missing, of a processor that is not known, or makes no sense.
        """
        path = folder / FILE
        if not path.is_file():
            raise ArtefactError(f"{folder} has no {FILE}, which says how pictures are to be prepared")
        return cls._read(read_json(path), path)

    @classmethod
    def _read(cls, said: dict[str, Any], path: Path) -> Preprocessing:
        told = str(said.get("image_processor_type") or said.get("feature_extractor_type") or "")
        kind = next((k for k in PROCESSORS if told.startswith(k)), None)
        if kind is None:
            known = ", ".join(PROCESSORS)
            raise ArtefactError(f"{path} is of the processor '{told}': known are those of {known}")
        defaults = PROCESSORS[kind]
        if said.get("do_pad") or said.get("do_flip_channel_order"):
            raise ArtefactError(f"{path} pads pictures or turns their channels round: not supported")
        mean, std = (
            _numbers(said.get(key), usual, path, key)
            for key, usual in zip(("image_mean", "image_std"), defaults.numbers, strict=True)
        )
        if 0 in std:
            raise ArtefactError(f"{path}: image_std holds a zero")
        normalises, rescales = said.get("do_normalize", True), said.get("do_rescale", True)
        shortest, size, crop = _geometry(said, kind, defaults, path)
        return cls(
            shortest=shortest, size=size, crop=crop,
            resample=_within(said.get("resample", defaults.resample), 0, 5, path, "resample"),
            scale=float(said.get("rescale_factor", 1 / 255)) if rescales else None,
            mean=mean if normalises else None, std=std if normalises else None,
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as an artefact keeps it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def resized(self, image: Image) -> Image:
        """The picture after resizing and cutting out of the middle."""
        width, height = image.size
        target = (height, width) if self.size is None else self.size
        if self.shortest is not None:
            short, long = min(width, height), max(width, height)
            longer = min(int(self.shortest * long / short), MAX_RATIO * self.shortest)
            target = (longer, self.shortest) if width <= height else (self.shortest, longer)
        if target != (height, width) or self.size is not None or self.shortest is not None:
            image = image.resize((target[1], target[0]), resample=self.resample)
        return image if self.crop is None else _middle(image, *self.crop)

    def array(self, image: Image) -> np.ndarray:
        """An RGB picture -> (3, height, width) float32."""
        import numpy as np

        levels = np.array(self.resized(image))  # (height, width, 3)
        # Through float64, as transformers does, so that the result is its to the bit.
        values = levels.astype(np.float32)
        if self.scale is not None:
            values = (levels.astype(np.float64) * self.scale).astype(np.float32)
        if self.mean is not None and self.std is not None:
            mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
            values = ((values - mean) / std).astype(np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1))


def _middle(image: Image, height: int, width: int) -> Image:
    """The middle of a picture; a smaller one gets a black border, as transformers pads it."""
    across, down = image.size
    if across >= width and down >= height:
        left, top = (across - width) // 2, (down - height) // 2
        return image.crop((left, top, left + width, top + height))
    from PIL import Image as pillow

    wide, high = max(width, across), max(height, down)
    whole = pillow.new("RGB", (wide, high))
    at_left, at_top = -((across - wide) // 2), -((down - high) // 2)  # half, rounded up
    whole.paste(image, (at_left, at_top))
    left, top = (across - width) // 2 + at_left, (down - height) // 2 + at_top
    left, top = max(left, 0), max(top, 0)
    return whole.crop((left, top, left + width, top + height))


# --- what the file says ------------------------------------------------------------------------------


def _geometry(
    said: dict[str, Any], kind: str, defaults: _Defaults, path: Path
) -> tuple[int | None, tuple[int, int] | None, tuple[int, int] | None]:
    """The shorter side, the size and the cut."""
    size = said.get("size", defaults.size)
    if isinstance(size, int):
        size = {next(iter(defaults.size)): size} if "shortest_edge" in defaults.size else {
            "height": size, "width": size
        }  # fmt: skip
    crop = None
    if said.get("do_center_crop", defaults.crops):
        told = said.get("crop_size", {"height": 224, "width": 224})
        told = {"height": told, "width": told} if isinstance(told, int) else told
        crop = _sides(told, path, "crop_size")
    if not said.get("do_resize", True):
        return None, None, crop
    if kind == "ConvNext":
        return _convnext(said, size, path)
    if isinstance(size, dict) and "shortest_edge" in size:
        return _within(size["shortest_edge"], 1, MAX_SIDE, path, "size"), None, crop
    return None, _sides(size, path, "size"), crop


def _convnext(
    said: dict[str, Any], size: Any, path: Path
) -> tuple[int | None, tuple[int, int] | None, tuple[int, int] | None]:
    """ConvNeXT's processor: a cut out of a larger picture, or from 384 pixels on a warped square."""
    side = _within((size or {}).get("shortest_edge"), 1, MAX_SIDE, path, "size")
    if side >= WARPED_FROM:
        return None, (side, side), None
    share = said.get("crop_pct", 224 / 256)
    if not isinstance(share, int | float) or not 0.1 <= share <= 1:
        raise ArtefactError(f"{path}: 'crop_pct' is {share!r}, which is no share of a side")
    return int(side / share), None, (side, side)


def _sides(told: Any, path: Path, key: str) -> tuple[int, int]:
    told = told if isinstance(told, dict) else {}
    height, width = (_within(told.get(k), 1, MAX_SIDE, path, key) for k in ("height", "width"))
    return height, width


def _within(value: Any, least: int, most: int, path: Path, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ArtefactError(f"{path}: '{key}' is {value!r}, not a number from {least} to {most}")
    return value


def _numbers(told: Any, usual: list[float], path: Path, key: str) -> tuple[float, ...]:
    told = usual if told is None else told
    told = [told] * 3 if isinstance(told, int | float) else told
    plain = isinstance(told, list) and len(told) == 3 and all(isinstance(n, int | float) for n in told)
    if not plain:
        raise ArtefactError(f"{path}: '{key}' is {told!r}, not one number for each of three colours")
    return tuple(float(n) for n in told)
