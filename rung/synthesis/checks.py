"""Checks of a written text: length, language, repetition, and whether it was cut."""

from __future__ import annotations

import unicodedata
from collections import Counter

MIN_SHARE = 0.7  # of letters that must be of the wanted script
MAX_REPEATED = 0.5  # share of 3-word sequences that may be repeats of others
MIN_LOOP = 12  # words from which repetition is looked for
ENDS = ".!?…。！？\"'”’)»"  # what a whole sentence ends with


def script_of(text: str) -> str | None:
    """Name the script that most letters of a text are of, such as `LATIN`; None without letters."""
    counts = Counter(_script(c) for c in text if c.isalpha())
    return counts.most_common(1)[0][0] if counts else None


def _script(character: str) -> str:
    name = unicodedata.name(character, "UNKNOWN").split(" ")[0]
    return "CJK" if name in ("CJK", "HIRAGANA", "KATAKANA", "FULLWIDTH") else name


def wrong_length(text: str, least: int, most: int) -> str | None:
    """Why a text is too short or too long by its words, of which others than blanks count for one."""
    count = len(text.split())
    if not text.strip() or count < least:
        return "too short"
    return "too long" if count > most else None


def wrong_script(text: str, script: str | None) -> str | None:
    """Why a text is not written in a script; None where it is, or any will do."""
    letters = [c for c in text if c.isalpha()]
    if script is None or (not letters and any(c.isdigit() for c in text)):
        return None
    if not letters or sum(_script(c) == script for c in letters) < MIN_SHARE * len(letters):
        return "another language"
    return None


def loops(text: str) -> str | None:
    """Why a text goes in circles: half of its sequences of three words occur before."""
    words = text.casefold().split()
    if len(words) < MIN_LOOP:
        return None
    grams = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return "repeats itself" if len(set(grams)) < (1 - MAX_REPEATED) * len(grams) else None


def unfinished(text: str, limit: int) -> str | None:
    """Why a text was cut by the limit on its characters: it fills it, and ends in no sentence's end."""
    if len(text) >= limit - 1 and not text.rstrip().endswith(tuple(ENDS)):
        return "cut"
    return None
