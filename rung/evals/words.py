"""Words of any script: what metrics of words in common count.

Letters, digits and their marks make words. Scripts that put no blanks between words (Chinese, Japanese,
Thai and others) are counted by character, as is usual for them; so are pictographs and signs of
mathematics.
"""

from __future__ import annotations

import re
import unicodedata

# Han, kana, Thai, Lao, Tibetan, Burmese, Khmer, Tai, Javanese, and the punctuation written with them.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua980-\ua9df"
    "\u2e80-\u2fdf\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc"
    "\u0ec8-\u0ecd\u102b-\u103e\u17b4-\u17d3\u3099\u309a]*"
)


def spaced(text: str) -> str:
    """The text with blanks around each character of a script that has none between words."""
    return UNSPACED.sub(lambda found: f" {found[0]} ", text)


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    kept = "".join(_part(c) for c in unicodedata.normalize("NFC", text).lower())
    return spaced(kept).split()


def repeated(text: str, size: int = 3) -> float:
    """Share of a text's sequences of `size` words that stand in it before; 0.0 of a shorter text."""
    told = words(text)
    every = list(zip(*(told[i:] for i in range(size)), strict=False))
    return 1 - len(set(every)) / len(every) if every else 0.0


def _part(char: str) -> str:
    kind = unicodedata.category(char)
    if kind == "So" or (kind[0] == "S" and char > "\x7f"):
        return f" {char} "
    return char if kind[0] in "LNM" else " "


def is_punctuation(char: str) -> bool:
    """Whether a character beyond ASCII is punctuation."""
    return char > "\x7f" and unicodedata.category(char)[0] == "P"
