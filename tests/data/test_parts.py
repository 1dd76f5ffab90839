"""Parts of contents: as a cell of a table holds them, and pictures in either vendor's words."""

from __future__ import annotations

import base64
import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data import DataKnobs, load, part_cells
from rung.data.format_strings import Missing
from rung.data.turns import turns, unread
from rung.errors import DataError

words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


def parts(*texts: str) -> list[dict]:
    return [{"type": "text", "text": text} for text in texts]


def table(rows: list[dict]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def said(path: str, **knobs) -> list[list[str]]:
    found = load(DataKnobs(data=path, **knobs))
    return [[m["content"] for m in e.messages] for e in found.examples]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(words, min_size=1, max_size=3), min_size=1, max_size=4),
    st.sampled_from([json.dumps, repr]),
)
def test_a_column_of_parts_is_read_as_the_texts_that_they_hold(contents, written):
    rows = [{"prompt": written(parts(*texts)), "n": "7"} for texts in contents]
    found, notes = part_cells.read([*rows, {"prompt": "", "n": "8"}])
    assert [row["prompt"] for row in found] == [*("".join(texts) for texts in contents), ""]
    assert [row["n"] for row in found] == ["7"] * len(rows) + ["8"]
    (note,) = notes
    assert "'prompt'" in note


COLUMNS = [
    ("prompt", "completion", {}),
    ("instruction", "output", {}),
    ("Q", "A", {"user": "{Q}", "assistant": "{A}"}),
]


@pytest.mark.parametrize(("question", "reply", "knobs"), COLUMNS)
def test_cells_of_parts_are_read_in_every_format(write, question, reply, knobs):
    rows = [
        {question: json.dumps(parts("Say ", f"{i}.")), reply: json.dumps(parts(f"It is {i}."))}
        for i in range(4)
    ]
    path = write("cells.csv", table(rows))
    assert said(path, **knobs) == [[f"Say {i}.", f"It is {i}."] for i in range(4)]
    assert any(
        f"'{question}' holds parts" in p.message for p in load(DataKnobs(data=path, **knobs)).problems
    )


def test_contents_of_messages_are_read_by_their_role(write):
    talks = [
        [{"role": "user", "content": json.dumps(parts(f"Say {i}."))},
         {"role": "assistant", "content": f"It is {i}."}]
        for i in range(4)
    ]  # fmt: skip
    whole = [[f"Say {i}.", f"It is {i}."] for i in range(4)]
    assert said(write("a.csv", table([{"messages": json.dumps(t)} for t in talks]))) == whole
    assert said(write("a.jsonl", "".join(json.dumps({"messages": t}) + "\n" for t in talks))) == whole


def test_a_text_that_quotes_parts_among_others_stays_as_it_is(write):
    quoted = json.dumps(parts("x"))
    rows = [{"prompt": p, "completion": "yes"} for p in (quoted, "Is this valid?", quoted)]
    path = write("quoted.csv", table(rows))
    assert [t[0] for t in said(path)] == [quoted, "Is this valid?", quoted]
    lists = [{"prompt": '[{"type": "lamp"}]', "completion": "yes"}] * 3
    assert said(write("lists.csv", table(lists)))[0][0] == '[{"type": "lamp"}]'


DATA = base64.b64encode(
    base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
    )
).decode()
URL = f"data:image/png;base64,{DATA}"
OPENAI = {"type": "image_url", "image_url": {"url": URL}}
BASE64 = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}


def shown(picture: dict) -> list[dict]:
    return [
        {"role": "user", "content": [*parts("What is "), picture, *parts("this?")]},
        {"role": "assistant", "content": "A lamp."},
    ]


@pytest.mark.parametrize("theirs", [BASE64, {"type": "image", "source": {"type": "url", "url": URL}}])
def test_pictures_in_anthropics_words_become_the_same_turns(theirs):
    assert turns(shown(theirs)) == turns(shown(OPENAI))
    assert turns(shown(theirs))[0]["picture_offsets"] == (8,)
    assert unread(shown(theirs)) == set()
    assert unread(shown({**theirs, "cache_control": {"type": "ephemeral"}})) == {"cache_control"}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (None, "picture 1 has no 'source'"),
        ({"type": "file", "file_id": "f"}, "picture 1 has no 'source' of type"),
        ({"type": "base64", "data": DATA}, "source of picture 1 has no 'media_type'"),
        ({"type": "base64", "media_type": "image/png"}, "source of picture 1 has no 'data'"),
        ({"type": "url", "url": "https://example.org/a.png"}, "nothing is fetched"),
        ({"type": "base64", "media_type": "image/png", "data": "@"}, "no valid base64"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(source, told):
    with pytest.raises(Missing, match=told):
        turns(shown({"type": "image", "source": source}))


def test_cells_of_parts_with_pictures_are_shown_or_refused(write):
    cell = json.dumps([*parts("What?"), BASE64])
    rows = [{"prompt": cell, "completion": "A lamp."}] * 2
    found = load(DataKnobs(data=write("shown.csv", table(rows))))
    asked = found.examples[0].messages[0]
    assert asked["content"] == "What?" and len(asked["pictures"]) == 1
    rows = [{"instruction": cell, "output": "A lamp."}] * 2
    with pytest.raises(DataError, match="instruction holds image beside text"):
        load(DataKnobs(data=write("refused.csv", table(rows))))
