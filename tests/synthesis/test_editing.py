"""Rows that are edited by hand: what changes, what stays, and what they say of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.data.provenance import licence_of
from rung.errors import DataError
from rung.synthesis import editing

ABOUT = {"teacher": "wise", "licence": "llama3.1", "seed": 3}
TALK = {
    "messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": None, "tool_calls": []},
    ],
    "provenance": ABOUT,
}  # fmt: skip


def test_an_edited_row_says_so_and_keeps_its_teacher_and_licence():
    assert editing.texts_of(TALK) == {"user": "a", "assistant": "b", "user 2": "c"}
    made = editing.edited(TALK, {"user": "a", "user 2": "other"})
    assert [turn["content"] for turn in made["messages"]] == ["a", "b", "other", None]
    assert made["messages"][3] == TALK["messages"][3]
    assert made["provenance"] == {**ABOUT, "edited": "by hand"}
    assert licence_of([made], "unknown") == "llama3.1"
    assert TALK["messages"][2]["content"] == "c"  # what was given stays as it was


def test_columns_are_edited_and_others_stay():
    row = {"text": "good", "label": "yes", "score": 3}
    assert editing.texts_of(row) == {"text": "good", "label": "yes"}
    made = editing.edited(row, {"label": "no"})
    assert made == {"text": "good", "label": "no", "score": 3, "provenance": {"edited": "by hand"}}
    assert editing.edited({"text": "x", "provenance": "a book"}, {"text": "y"})["provenance"] == {
        "source": "a book", "edited": "by hand",
    }  # fmt: skip


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), min_size=1))
def test_rows_that_are_not_changed_are_the_same_rows(rows):
    assert editing.read(editing.write(rows)) == rows
    assert [editing.edited(row, editing.texts_of(row)) for row in rows] == rows


def test_half_of_a_surrogate_pair_is_kept_as_it_was():
    rows = editing.read('{"a": "\\ud800", "b": "é"}\n{"b": "é"}')
    written = editing.write(rows).encode()
    assert editing.read(written.decode()) == rows and written.endswith('{"b": "é"}\n'.encode())


def test_every_message_has_a_name_of_its_own():
    roles = ("user", "user", "user 2", "user", "user 2")
    row = {"messages": [{"role": r, "content": f"{n}"} for n, r in enumerate(roles)]}
    texts = editing.texts_of(row)
    assert list(texts.values()) == ["0", "1", "2", "3", "4"]
    made = editing.edited(row, {name: f"{text}!" for name, text in texts.items()})
    assert [turn["content"] for turn in made["messages"]] == ["0!", "1!", "2!", "3!", "4!"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": ' + "[" * 10**5, "line 1 is no JSON"),
        ("a,b\n1,2\n", "line 1 is no JSON object"),
        ('{"a": "b"}\n3', "line 2"),
        ("\n", "no rows"),
    ],
)
def test_what_holds_no_rows_is_told_in_one_line(text, words):
    with pytest.raises(DataError, match=words):
        editing.read(text)


def test_a_text_cannot_be_emptied():
    with pytest.raises(DataError, match="'text' is empty"):
        editing.edited({"text": "x"}, {"text": " "})
    assert json.loads(editing.write([{"text": "ä"}])) == {"text": "ä"}
