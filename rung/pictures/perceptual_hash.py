"""Perceptual hash: 56 bytes of what a picture looks like, by which two files of one picture are found.

The first 8 bytes are a difference hash: the picture is made 9 x 8 grey levels, and each of 64 bits says
whether a level is brighter than the one to its right. The others are the mean colours of 4 x 4 places,
without which all pictures without edges would look alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

HASH_BYTES, SIDE = 8, 4
BRIGHTER = 2  # grey levels by which a place must be brighter, so that rounding decides little
MAX_BITS = 7  # that differ between two files of one picture
MAX_LEVELS = 10.0  # of 255, mean difference of colours
BANDS = MAX_BITS + 1  # of equally many bits: two hashes that differ in fewer bits share one of them
MAX_COMPARED = 2000  # pictures that share a band and are compared with each other


def perceptual_hash(image: Image) -> bytes:
    """Compute the hash of an RGB picture."""
    import numpy as np
    from PIL import Image as pillow

    small = np.asarray(image.convert("L").resize((9, 8), pillow.Resampling.BOX)).astype(np.int16)
    bits = small[:, :-1] > small[:, 1:] + BRIGHTER
    colours = np.asarray(image.resize((SIDE, SIDE), pillow.Resampling.BOX))
    return np.packbits(bits).tobytes() + colours.tobytes()


def groups(hashes: Sequence[bytes]) -> list[list[int]]:
    """Which pictures look alike: groups of places in `hashes`, each in order.

    What is alike by way of a third one is of one group; who stands alone is of none. An empty hash is
    like no other. Of many pictures that share a part of the hash, not each is compared with each.
    """
    import numpy as np

    known = [i for i, one in enumerate(hashes) if one]
    parent = list(range(len(hashes)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    if known:
        table = np.frombuffer(b"".join(hashes[i] for i in known), np.uint8).reshape(len(known), -1)
        for a, b in _pairs(table):
            parent[root(known[b])] = root(known[a])
    found: dict[int, list[int]] = defaultdict(list)
    for i in known:
        found[root(i)].append(i)
    return [group for group in found.values() if len(group) > 1]


def _pairs(table: np.ndarray) -> Iterator[tuple[int, int]]:
    """Rows of hashes (n, 56) that are alike, by the bands of the hash that they share."""
    import numpy as np

    width = HASH_BYTES // BANDS
    hashes = np.ascontiguousarray(table[:, :HASH_BYTES]).view(np.uint64)[:, 0]
    colours = table[:, HASH_BYTES:].astype(np.int16)
    for band in range(BANDS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for row, part in enumerate(table[:, band * width : (band + 1) * width]):
            buckets[part.tobytes()].append(row)
        for rows in buckets.values():
            for first in range(0, len(rows) - 1, MAX_COMPARED):
                near = np.array(rows[first : first + MAX_COMPARED])
                a, b = near[_close(hashes[near])].T
                kept = np.abs(colours[a] - colours[b]).mean(1) <= MAX_LEVELS
                yield from zip(a[kept].tolist(), b[kept].tolist(), strict=True)


def _close(hashes: np.ndarray) -> np.ndarray:
    """Pairs of hashes (n,) of 64 bits that differ in few: places (m, 2), the lower one first."""
    import numpy as np

    apart = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    first, second = np.nonzero(np.triu(apart <= MAX_BITS, 1))
    return np.stack([first, second], 1)
