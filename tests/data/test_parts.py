"""Parts of contents: as a cell of a table holds them, and pictures in either vendor's words."""

from __future__ import annotations

import base64

import pytest

from rung.data.format_strings import Missing
from rung.data.turns import turns, unread


def parts(*texts: str) -> list[dict]:
    return [{"type": "text", "text": text} for text in texts]


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
