"""Grammars: what they let through, what is refused and how soon."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.engine.constraint import MAX_KEPT, ConstraintError, Grammars
from rung.engine.patterns import repeats_a_repeat
from tests.tokens import tiny_tokenizer


@pytest.fixture(scope="module")
def grammars():
    tokenizer = tiny_tokenizer()
    return Grammars(tokenizer, (tokenizer.eos_token_id,), len(tokenizer))


def accepts(constraint, text):
    matcher = constraint.begin()
    ids = tiny_tokenizer().encode(text, add_special_tokens=False)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def test_any_object_and_nothing_else(grammars):
    made = grammars.compile("json_object")
    assert accepts(made, '{"a": [1, {"b": null}], "c": "d\\n"}')
    assert accepts(made, json.dumps({"a": {"b": [True]}}, indent=2))
    assert not any(accepts(made, text) for text in ("[1]", '"a"', '{"a": }', "{'a': 1}", '{"a": 1'))
    assert not accepts(made, "{" + " " * 40 + "}")  # a page of blanks is no answer


def test_a_schema_holds(grammars):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "pattern": "^[a-z]+$"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    for given_schema in (schema, json.dumps(schema)):
        made = grammars.compile("json_schema", given_schema)
        assert accepts(made, '{"name": "ann", "age": 3}')
        assert not accepts(made, '{"name": "Ann", "age": 3}')
        assert not accepts(made, '{"name": "ann", "age": 3.5}')
        assert not accepts(made, '{"name": "ann"}')


def test_patterns_and_choices(grammars):
    made = grammars.compile("regex", r"\d{4}-\d{2}")
    assert accepts(made, "2026-11")
    assert not accepts(made, "2026-1")
    made = grammars.compile("choice", ["yes", "yes, indeed", 'a "quoted" one\n', "née"])
    for text in ("yes", "yes, indeed", 'a "quoted" one\n', "née"):
        assert accepts(made, text)
    assert not accepts(made, "no")


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ("json_schema", None, "must be a JSON object"),
        ("json_schema", "{", "not valid JSON"),
        ("json_schema", '{"a":' * 10_000 + "1" + "}" * 10_000, "nested too deeply"),
        ("json_schema", {"type": "hiccup"}, "hiccup"),
        ("json_schema", {"not": {"type": "string"}}, "not"),
        ("json_schema", {"type": "integer", "minimum": 2, "maximum": 1}, "minimum"),
        ("json_schema", {"$ref": "http://169.254.169.254/"}, "not present"),
        ("json_schema", {"type": "string", "pattern": "(a+)+$"}, "repeats what is a repeat"),
        ("json_schema", {"type": "string", "pattern": "(a"}, "unclosed"),
        ("json_schema", {"enum": ["x" * 200_000]}, "more than 100000"),
        ("regex", "(a+)+$", "repeats what is a repeat"),
        ("regex", "(a", "unclosed"),
        ("regex", r"(a)\1", "backreferences"),
        ("regex", "a" * 5_000, "more than 4000"),
        ("regex", r"[^\s\S]", "no text can fulfil"),
        ("regex", 3, "must be text"),
        ("choice", [], "list of texts"),
        ("choice", "yes", "list of texts"),
        ("choice", ["a", ""], "list of texts"),
        ("hiccup", None, "take one of"),
    ],
)
def test_refusals_come_at_once_and_say_why(grammars, kind, value, says):
    begin = time.monotonic()
    with pytest.raises(ConstraintError, match=says):
        grammars.compile(kind, value)
    assert time.monotonic() - begin < 5


def test_a_schema_nested_deeper_than_python_is_refused(grammars):
    schema: dict = {}
    for _ in range(10_000):
        schema = {"properties": {"a": schema}}
    with pytest.raises(ConstraintError, match="64 levels"):
        grammars.compile("json_schema", schema)


@pytest.mark.parametrize(
    "pattern", ["((a{1,1000}){1,1000}){1,1000}", "(a|b)*a(a|b){300}", "(.*a.{99}){9}"]
)
def test_hungry_patterns_end(grammars, pattern):
    """They compile or are refused; and following them is bounded too."""
    begin = time.monotonic()
    try:
        matcher = grammars.compile("regex", pattern).begin()
        for _ in range(50):
            matcher.try_consume_tokens(tiny_tokenizer().encode("a"))
            matcher.compute_bitmask()
    except ConstraintError:
        pass
    assert time.monotonic() - begin < 10


def test_the_cache_is_bounded(grammars):
    first = grammars.compile("regex", "first")
    assert grammars.compile("regex", "first") is first
    for i in range(3 * MAX_KEPT):
        grammars.compile("regex", f"number {i}")
    assert len(grammars._kept) == MAX_KEPT
    assert grammars.compile("regex", "first") == first


def test_which_patterns_repeat_a_repeat():
    bad = [
        "(a+)+$",
        "(a*)*",
        "((a+))+",
        "(?:x*)+",
        "(a+|b)+",
        "(b|[^]]+)*",
        r"(\w+){2,}",
        "(?P<n>a+?)*",
    ]
    good = [
        "a+",
        "(ab+)+",
        "(a+b?)+",
        r"(a\+)+",
        "[(a+)+]",
        "(a+)?",
        "(a{2,3})+",
        "(a+){2}",
        "(a|b)+",
        "",
    ]
    assert [p for p in bad if not repeats_a_repeat(p)] == []
    assert [p for p in good if repeats_a_repeat(p)] == []


@given(st.text("ab()[]{}|*+?\\^$,1:<>P", max_size=30))
def test_any_text_can_be_looked_at(pattern):
    assert repeats_a_repeat(pattern) in (True, False)
