"""The final answer of a text that may think aloud, and the number that it states.

Scoring the first thing that looks like an answer would punish reasoning: what stands behind `####`, in
`\\boxed{}`, in <answer> tags or behind "the answer is" counts, the last of them; else the last number.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_MARKED = re.compile(r"####[ \t]*([^\n]+)")
# Up to the end of the line, or to where it says what the answer is once more.
_SAID = re.compile(
    r"answer(?: is|:)(?: is|:)?\s*((?:(?!\b(?:final )?answer(?: is|:))[^\n])+)", re.IGNORECASE
)
_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_BOX = "\\boxed{"
_BRACE = re.compile(r"\\boxed\{|[{}]")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_DECORATION = re.compile(r"\\text\s*\{[^{}]*\}|\\[,;! ]|\\(?:left|right)|\$|\*\*|\\%|°")
# A sign counts only where it cannot be a dash between two numbers: 10-12 is a span.
_NUMBER = re.compile(
    r"(?<![\w.,])(?P<sign>(?<![\w)\]%.,])[-+\u2212])?\s?[$€£]?\s?"
    r"(?:(?P<mixed>\d+)\s+(?=\d+/\d))?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))"
    r"(?P<decimals>\.\d+)?(?P<power>[eE][-+]?\d+\b)?"
    r"(?:\s?/\s?(?P<below>\d+(?:\.\d+)?))?(?P<percent>\s?%)?"
)
MAX_DIGITS = 400  # of a number; longer ones are no answers, and cost time to read


def final_answer(text: str) -> str:
    """The part of a text that states its answer; the whole text where nothing marks one."""
    text = _without_thoughts(text)
    found = [(m.start(), m[1]) for p in (_TAGGED, _MARKED, _SAID) for m in p.finditer(text)]
    found += _boxes(text)
    return max(found, key=lambda at: at[0])[1].strip() if found else text.strip()


def _without_thoughts(text: str) -> str:
    """What is said behind the thoughts; the text itself where it holds nothing else."""
    said = _THOUGHTS.sub(" ", text)
    return said if said.strip() else text


def _boxes(text: str) -> list[tuple[int, str]]:
    """What stands in each \\boxed{}, whose braces may hold others; found in one pass."""
    found: list[tuple[int, str]] = []
    opened: list[tuple[int, bool]] = []  # open braces: where each ends, whether of a box
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            opened.append((brace.end(), brace[0] == _BOX))
        elif opened:
            begin, is_box = opened.pop()
            if is_box:
                found.append((begin, text[begin : brace.start()]))
    return found


def number(text: str) -> float | None:
    """The number that a text states as its answer, None where it states none.

    Commas between thousands, currency, units, percent signs, fractions and mixed numbers are read; of
    a marked answer the first number counts ("12 apples"), of plain text the last.
    """
    text = _without_thoughts(text)
    answer = final_answer(text)
    marked = answer != text.strip()
    found = _numbers(answer)
    if not found:
        found = _numbers(text) if marked else []
        return found[-1] if found else None
    if marked and "=" in answer:
        after = _numbers(answer.rpartition("=")[2])
        return after[0] if after else found[-1]
    return found[0] if marked else found[-1]


def _numbers(text: str) -> list[float]:
    plain = _DECORATION.sub(" ", _FRACTION.sub(r" \1/\2 ", text)).replace("{,}", ",")
    return [v for m in _NUMBER.finditer(plain) if (v := _value(m)) is not None]


def _value(match: re.Match) -> float | None:
    digits = match["whole"].replace(",", "")
    written = f"{digits or '0'}{match['decimals'] or ''}{match['power'] or ''}"
    if len(written) > MAX_DIGITS:
        return None
    try:
        value = Fraction(written) if not match["power"] else Fraction(float(written))
        if match["below"]:
            value /= Fraction(match["below"])
        value += int(match["mixed"] or 0)
        result = float(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    if match["sign"] in ("-", "\u2212"):
        result = -result
    return result if math.isfinite(result) else None
