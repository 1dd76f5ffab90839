"""Reading numbers, patterns and JSON out of answers."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any

from rung.errors import DataError
from rung.evals.metrics.base import Metric, of_pairs

# A sign stands in front of a number only where nothing else does: 10-12 is a span.
_NUMBER = re.compile(
    r"(?:(?<![\w)\]%.,])[-+−])?[$€£]?\s?(?:"
    r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)"  # 1,234.5
    r"|\d{1,3}(?:\.\d{3})+,\d+(?![\d,])"  # 1.234,5
    r"|(?<![\d,(])\d+,\d{1,2}(?![\d,])"  # 3,5
    r"|\d+(?:\.\d+)?(?:[eE][-+]?\d+\b)?"
    r"|(?<!\d)\.\d+"
    r")(?:/\d+)?%?"
)
# Thousands parted by narrow blanks or apostrophes; by plain ones where more groups or decimals follow.
_THOUSANDS = re.compile(
    r"(?<![\d.,])\d{1,3}(?:(?:[\u00a0\u2009\u202f'’]\d{3})+|(?: \d{3}){2,}|(?: \d{3})+(?=,\d))(?!\d)"
)
_LONG = re.compile(  # 1.000.000, and 1,23,456 as in India
    r"(?<![\d.,])(?:\d{1,3}(?:\.\d{3}){2,}(?![\d.,])|\d{1,2}(?:,\d{2})+,\d{3}(?!\d))"
)
_MIXED = re.compile(r"(?<![\d.,/])(\d{1,3})[ \u00a0]?(?:(\d{1,3})/(\d{1,3})(?![\d/])|([¼-¾⅐-⅞]))")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]+)\}\{([^{}]+)\}")
_FINAL = re.compile(r"####\s*(.+)|\\boxed\{([^{}]*)\}|answer is:?\s*(.+)", re.IGNORECASE)
_FENCE = re.compile(r"```(?:json)?\s*\n?(.*?)```", re.DOTALL | re.IGNORECASE)


def number(text: str) -> float | None:
    """The number an answer ends in: behind `####` or `The answer is`, in `\\boxed{}`, else the last.

    GSM8K's references are read alike.
    """
    text = _plainly(_FRACTION.sub(r"\1/\2", text).replace("{,}", ","))
    finals = _FINAL.findall(text)
    for parts in reversed(finals):
        found = _NUMBER.findall(next(p for p in parts if p) if any(parts) else "")
        if found:
            return _value(found[0])
    found = _NUMBER.findall(text)
    return _value(found[-1]) if found else None


def numbers_in(text: str) -> list[str]:
    """Find the numbers of a text as they are written, in their order."""
    return [found.strip() for found in _NUMBER.findall(_plainly(text))]


def is_number(text: str) -> bool:
    """Tell whether a text is a number and nothing else."""
    return _NUMBER.fullmatch(_plainly(text)) is not None


def _plainly(text: str) -> str:
    """Write numbers in ASCII: those of other scripts, mixed ones, and thousands that are parted."""
    if not text.isascii():
        kept = (str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
        text = "".join(kept).replace("٫", ".").replace("٬", ",")
    text = _MIXED.sub(_mixed, text)
    text = re.sub("[¼-¾⅐-⅞]", lambda found: f"{unicodedata.numeric(found[0]):.12g}", text)
    text = _THOUSANDS.sub(lambda found: re.sub(r"[\s'’]", "", found[0]), text)
    return _LONG.sub(lambda found: re.sub("[.,]", "", found[0]), text)


def _mixed(found: re.Match[str]) -> str:
    """A whole number and a fraction as one decimal; as it was where the fraction is none."""
    whole, above, below, sign = found.groups()
    if sign:
        return f"{int(whole) + unicodedata.numeric(sign):.12g}"
    if not 0 < int(above) < int(below):
        return found[0]
    return f"{int(whole) + int(above) / int(below):.12g}"


def _value(written: str) -> float | None:
    plain = written.replace("−", "-").translate(str.maketrans("", "", "$€£% "))
    if re.fullmatch(r"[-+]?(\d{1,3}(\.\d{3})+|\d+),\d+", plain) and not re.fullmatch(
        r"[-+]?\d{1,3}(,\d{3})+", plain
    ):
        plain = plain.replace(".", "").replace(",", ".")  # a comma in front of the decimals
    plain = plain.replace(",", "")
    above, _, below = plain.partition("/")
    try:
        return float(above) / float(below) if below else float(above)
    except (ValueError, ZeroDivisionError):
        return None


def number_match(text: str, reference: str) -> float:
    """1 where both end in the same number."""
    told, right = number(text), number(reference)
    if right is None:
        raise DataError(f"the reference '{reference[:40]}' holds no number: choose another --metric")
    return float(told is not None and math.isclose(told, right, rel_tol=1e-6, abs_tol=1e-9))


def regex_match(text: str, reference: str) -> float:
    """1 where the reference, a pattern, is found in the answer."""
    try:
        return float(re.search(reference, text) is not None)
    except re.error as fault:
        raise DataError(f"the reference '{reference[:40]}' is no pattern: {fault}") from None


def read_json(text: str) -> Any:
    """An answer as JSON, also from inside a code fence.

    Raises:
        ValueError: when it is none.
    """
    fenced = _FENCE.search(text)
    try:
        return json.loads(fenced[1] if fenced else text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_valid(text: str, reference: str = "") -> float:
    """1 where the answer is JSON; where the reference is a JSON schema, JSON that keeps to it."""
    try:
        value = read_json(text)
    except ValueError:
        return 0.0
    schema = _schema(reference)
    if schema is None:
        return 1.0
    import jsonschema_rs

    return float(jsonschema_rs.is_valid(schema, value))


def _schema(reference: str) -> dict[str, Any] | None:
    try:
        value = read_json(reference)
    except ValueError:
        return None
    named = isinstance(value, dict) and ("$schema" in value or {"type", "properties"} <= set(value))
    return value if named else None


def json_match(text: str, reference: str) -> float:
    """1 where both are the same JSON value."""
    try:
        right = read_json(reference)
    except ValueError:
        raise DataError(
            f"the reference '{reference[:40]}' is no JSON: choose another --metric"
        ) from None
    try:
        return float(_same(read_json(text), right))
    except ValueError:
        return 0.0


def _same(told: Any, right: Any) -> bool:
    """Equal as JSON: 1 is 1.0, and neither is true."""
    if isinstance(told, bool) or isinstance(right, bool):
        return told is right
    if isinstance(told, dict) and isinstance(right, dict):
        return told.keys() == right.keys() and all(_same(v, right[k]) for k, v in told.items())
    if isinstance(told, list) and isinstance(right, list):
        return len(told) == len(right) and all(map(_same, told, right))
    if isinstance(told, float) and isinstance(right, float) and math.isnan(told):
        return math.isnan(right)
    return bool(told == right)


metrics = [
    Metric("number_match", "share of answers whose number is the reference's", of_pairs(number_match)),
    Metric("regex_match", "share of answers that the reference, a pattern, finds",
           of_pairs(regex_match)),
    Metric("json_valid", "share of answers that are JSON", of_pairs(json_valid)),
    Metric("json_match", "share of answers that equal the reference, as JSON", of_pairs(json_match)),
]  # fmt: skip
