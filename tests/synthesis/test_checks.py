"""Checks of written texts."""

from __future__ import annotations

import pytest

from rung.synthesis import checks


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Good morning", "LATIN"), ("Доброе утро", "CYRILLIC"), ("おはよう世界", "CJK"),
        ("مرحبا", "ARABIC"), ("123 !", None),
    ],
)  # fmt: skip
def test_scripts_are_told_apart(text, script):
    assert checks.script_of(text) == script
    if script:
        assert checks.wrong_script(text, script) is None
        other = "GREEK" if script == "LATIN" else "LATIN"
        assert checks.wrong_script(text, other) == "another language"
    assert checks.wrong_script(text, None) is None


def test_one_foreign_name_does_no_harm():
    assert checks.wrong_script("I live in Москва and like it very much there", "LATIN") is None


@pytest.mark.parametrize(("words", "why"), [(0, "too short"), (3, None), (6, "too long")])
def test_length_is_counted_in_words(words, why):
    assert checks.wrong_length(" ".join(["word"] * words), 3, 5) == why


def test_a_text_in_circles_is_found():
    assert checks.loops("I am so glad. " * 8) == "repeats itself"
    assert checks.loops("I am so glad that you came here today and stayed all evening.") is None


def test_what_fills_the_limit_without_an_end_was_cut():
    assert checks.unfinished("a" * 50, 50) == "cut"
    assert checks.unfinished("a" * 49 + ".", 50) is None and checks.unfinished("a", 50) is None
