"""The header of a GGUF file: its short fields and its tensors, without reading any weights.

The gguf package's own reader makes an array per vocabulary entry and takes seconds for what is
wanted here: a few fields, the number of weights, and whether the file is whole.
Source: the GGUF specification, ggml/docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any

from rung.errors import ArtefactError

FORMATS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
STRING, ARRAY = 8, 9
ALIGNMENT = 32  # bytes, when the file does not say
FACTORS = "rope_freqs.weight"  # of rotary embeddings, by frequency: the one tensor that is read


class Cursor:
    """A place in the file that moves on with each read."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.at = 0

    def number(self, layout: str) -> Any:
        """One number by its struct layout. Raises struct.error past the end."""
        value = struct.unpack_from(layout, self.content, self.at)[0]
        self.at += struct.calcsize(layout)
        return value

    def text(self) -> str:
        """A length and that many bytes."""
        length = self.number("<Q")
        if self.at + length > len(self.content):
            raise struct.error
        self.at += length
        return self.content[self.at - length : self.at].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """A field's value; an array's is its length, its elements are passed over."""
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.number(FORMATS[kind])
        inner, count = self.number("<I"), self.number("<Q")
        if inner in FORMATS:
            self.at += count * struct.calcsize(FORMATS[inner])
        else:
            for _ in range(count):
                self.value(inner)
        return count


def read_header(file: Path) -> dict[str, Any]:
    """The fields of a GGUF by name, with the number of weights as `parameters`.

    Factors of its rotary embeddings are `rope_freqs`, the name of any other such tensor `rope_others`.

    Raises:
        ArtefactError: not a GGUF, not a version that is known, or cut short.
    """
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise ArtefactError(f"{file} is not a GGUF file")
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                fields, end = parse(content)
            except (struct.error, KeyError, OverflowError, RecursionError):
                raise ArtefactError(f"{file} has a damaged header: fetch it again") from None
            if end > len(content):
                raise ArtefactError(
                    f"{file} is cut short: {len(content)} bytes of {end}; fetch it again"
                )
    return fields


def parse(content: mmap.mmap) -> tuple[dict[str, Any], int]:
    """The fields, and where the last tensor's data ends in bytes from the file's start."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    cursor = Cursor(content)
    cursor.at = 4
    if cursor.number("<I") not in (2, 3):
        raise struct.error
    tensors, count = cursor.number("<Q"), cursor.number("<Q")
    fields: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.text()
        fields[key] = cursor.value(cursor.number("<I"))
    weights = end = 0
    factors: tuple[int, int] | None = None
    for _ in range(tensors):
        name = cursor.text()
        shape = [cursor.number("<Q") for _ in range(cursor.number("<I"))]
        kind, offset = cursor.number("<I"), cursor.number("<Q")
        try:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except ValueError:
            raise struct.error from None
        elements = math.prod(shape)
        weights += elements
        end = max(end, offset + elements // block * size)
        if name == FACTORS and kind == GGMLQuantizationType.F32:
            factors = elements, offset
        elif "rope_f" in name:
            fields["rope_others"] = name
    alignment = int(fields.get("general.alignment", ALIGNMENT)) or ALIGNMENT
    start = -(-cursor.at // alignment) * alignment
    fields["parameters"] = weights
    if factors is not None and start + end <= len(content):
        fields["rope_freqs"] = struct.unpack_from(f"<{factors[0]}f", content, start + factors[1])
    return fields, start + end
