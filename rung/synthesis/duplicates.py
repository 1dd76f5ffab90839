"""Near duplicates: MinHash of character shingles with banded locality-sensitive hashing.

Broder 1997 ("On the resemblance and containment of documents"); candidates that share a band are
compared by the Jaccard similarity of their shingles itself, so that no row is refused by an estimate.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np

SHINGLE = 5  # characters; works in scripts without blanks too
BANDS, ROWS = (
    96,
    2,
)  # of the signature: a pair of similarity s is missed with (1 - s^2)^96, 1e-12 at 0.5
MULTIPLIERS = np.random.default_rng(1997).integers(1, 2**63, BANDS * ROWS, dtype=np.uint64) | np.uint64(
    1
)
OFFSETS = np.random.default_rng(1998).integers(0, 2**63, BANDS * ROWS, dtype=np.uint64)


def plain(text: str) -> str:
    """A text without case, punctuation and extra blanks, as duplicates are compared."""
    kept = "".join(c if c.isalnum() else " " for c in text.casefold())
    return " ".join(kept.split())


def shingles(text: str) -> frozenset[int]:
    """Hash the character 5-grams of a text to 64 bits each; a shorter text is its own shingle."""
    words = plain(text)
    grams = {words[i : i + SHINGLE] for i in range(max(1, len(words) - SHINGLE + 1))}
    digests = (hashlib.blake2b(gram.encode(), digest_size=8).digest() for gram in grams)
    return frozenset(int.from_bytes(digest, "big") for digest in digests)


def jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    """Share of the shingles of both that they have in common."""
    return len(a & b) / len(a | b) if a or b else 1.0


def signature(found: frozenset[int]) -> np.ndarray:
    """Compute the MinHash signature (BANDS * ROWS,) of shingles, by multiply-shift hashing."""
    values = np.fromiter(found, dtype=np.uint64, count=len(found))
    with np.errstate(over="ignore"):  # modulo 2**64 is what is wanted
        hashed = (values[:, None] * MULTIPLIERS + OFFSETS) >> np.uint64(32)
    return hashed.min(0)


class Duplicates:
    """Index of texts that finds what is like a new one.

    Args:
        similarity: Jaccard similarity from which two texts are duplicates.
    """

    def __init__(self, similarity: float):
        self.similarity = similarity
        self._texts: list[frozenset[int]] = []
        self._bands: dict[tuple[int, bytes], list[int]] = defaultdict(list)

    def add(self, text: str) -> None:
        """Take a text into the index."""
        found = shingles(text)
        self._texts.append(found)
        for band in _bands(found):
            self._bands[band].append(len(self._texts) - 1)

    def holds(self, text: str) -> bool:
        """Whether a text, or one like it, is in the index."""
        found = shingles(text)
        near = {i for band in _bands(found) for i in self._bands.get(band, ())}
        return any(jaccard(found, self._texts[i]) >= self.similarity for i in near)


def _bands(found: frozenset[int]) -> list[tuple[int, bytes]]:
    parts = signature(found).reshape(BANDS, ROWS)
    return [(i, part.tobytes()) for i, part in enumerate(parts)]
