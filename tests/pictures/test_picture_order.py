"""Texts and pictures of a message keep their order, in rows and in requests alike."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data import DataKnobs, Template, load
from rung.data.turns import turns
from rung.pictures import picture, tokens
from rung.server.chat_schema import ChatMessage
from rung.server.tools import conversation
from rung.types import Example, Picture, pieces
from tests.pictures.conftest import COLOURS, as_bytes, drawn
from tests.pictures.test_server import part, url
from tests.tokens import tiny_tokenizer

COUNT = 4  # tokens of a picture
URLS = {colour: url(as_bytes(drawn(rgb))) for colour, rgb in COLOURS.items()}
REPLY = {"role": "assistant", "content": "Yes."}
# Texts of one word, and colours, which stand for pictures.
shapes = st.lists(st.sampled_from(["a ", "b", " c?", *COLOURS]), min_size=1, max_size=7)


@pytest.fixture(scope="module")
def template():
    return replace(Template.of(tiny_tokenizer()), picture_tokens=COUNT)


@pytest.fixture(scope="module")
def shown():
    """Pictures by colour, kept alive."""
    return {n: picture(as_bytes(drawn(c)), n)[0] for n, c in COLOURS.items()}


def user(text, *pictures):
    return {"role": "user", "content": text, "pictures": pictures}


def test_equal_pictures_have_equal_ids_beyond_every_vocabulary(shown):
    again = picture(as_bytes(drawn(COLOURS["red"])), "elsewhere")[0]
    own, other = (tokens.ids_of(shown[c], 9) for c in ("red", "blue"))
    assert own == tokens.ids_of(again, 9) and not set(own) & set(other)
    assert min(own) >= tokens.FIRST_ID and max(own) < 2**31
    assert tokens.picture_of(tokens.number_of(own[4])) == shown["red"] and tokens.place_of(own[4]) == 4


def test_pictures_whose_digests_name_one_number_are_told_apart(shown):
    from rung.types import Picture

    twins = [Picture("f" * 15 + str(i) * 49, b"") for i in range(3)]
    found = [tokens.ids_of(t, 4) for t in twins]
    assert len({i for ids in found for i in ids}) == 12
    assert [tokens.picture_of(tokens.number_of(ids[0])) for ids in found] == twins


def test_a_picture_stands_in_front_of_its_text_and_is_not_learnt(template, shown):
    told = [
        user("Which?", shown["red"], shown["blue"]), {"role": "assistant", "content": "The first."},
        user("And this?", shown["green"]), {"role": "assistant", "content": "No."},
    ]  # fmt: skip
    row = template.render(Example(tuple(told)))
    plain = template.render(Example(tuple({**m, "pictures": ()} for m in told)))
    order = [shown["red"], shown["blue"], shown["green"]]
    assert [i for i in row.ids if i >= tokens.FIRST_ID] == [
        i for p in order for i in tokens.ids_of(p, COUNT)
    ]
    words = [(i, s) for i, s in zip(row.ids, row.supervised, strict=True) if i < tokens.FIRST_ID]
    assert words == list(zip(plain.ids, plain.supervised, strict=True))
    at = row.ids.index(tokens.ids_of(shown["red"], 1)[0])
    assert template.decode(row.ids[:at]).endswith("user\n")
    assert template.prompt(told[:3]) == list(row.ids[: len(template.prompt(told[:3]))])


def content_of(parts: list[str]) -> list[dict]:
    return [part(URLS[p]) if p in URLS else {"type": "text", "text": p} for p in parts]


def merged(parts: list[str]) -> list[str]:
    """The same with neighbouring texts as one."""
    found: list[str] = []
    for is_text, group in itertools.groupby(parts, lambda p: p not in URLS):
        run = list(group)
        found += ["".join(run)] if is_text else run
    return found


def read_back(ids: list[int], template: Template, colours: dict[int, str]) -> list[str]:
    """What the ids of a prompt say: its texts and, by their colours, its pictures."""
    found: list[str] = []
    for is_text, group in itertools.groupby(ids, lambda i: i < tokens.FIRST_ID):
        run = list(group)
        found += [template.tokenizer.decode(run)] if is_text else [
            colours[tokens.number_of(i)] for i in run[::COUNT]
        ]  # fmt: skip
    return found


@settings(max_examples=80, deadline=None)
@given(shapes, st.sampled_from([None, "ada"]))
def test_rows_and_requests_render_the_same_ids_in_the_order_of_their_parts(
    template, shown, parts, name
):
    asked = {"role": "user", "content": content_of(parts)} | ({"name": name} if name else {})
    request = template.prompt(conversation([ChatMessage.model_validate(asked)], []))
    told = turns([asked, REPLY])
    assert list(template.render(Example(tuple(told))).ids[: len(request)]) == request
    colours = {tokens.number_of(tokens.ids_of(p, 1)[0]): c for c, p in shown.items()}
    # Who speaks is told in front of the first text.
    first = next((i for i, p in enumerate(parts) if p not in URLS), len(parts))
    spoken = [*parts[:first], *([f"{name}: "] if name else []), *parts[first:]]
    (empty,) = read_back(template.prompt([{"role": "user", "content": "@"}]), template, {})
    opened, closed = empty.split("@")
    assert read_back(request, template, colours) == merged([opened, *spoken, closed])


@given(shapes)
@settings(max_examples=50, deadline=None)
def test_pieces_of_a_turn_are_its_parts(parts):
    (turn,) = turns([{"role": "user", "content": content_of(parts)}])
    found = [piece if not isinstance(piece, Picture) else "*" for piece in pieces(turn)]
    expected = ["*" if p in URLS else p for p in merged(parts)]
    # A message of pictures alone has an empty text behind them, as it always had.
    assert [p for p in found if p] == expected
    assert ("picture_offsets" in turn) is any(
        p in URLS and i > 0 and any(q not in URLS for q in parts[:i]) for i, p in enumerate(parts)
    )


def test_a_row_of_a_file_keeps_the_order_that_a_request_has(template, tmp_path):
    parts = ["a ", "red", "b", "blue", " c?"]
    other = ["a ", "blue", "b", "red", " c?"]
    moved = ["red", "a ", "b", "blue", " c?"]
    rows = [
        {"messages": [{"role": "user", "content": content_of(p)}, REPLY]} for p in (parts, other, moved)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    found = load(DataKnobs(data=str(path)))
    ids = [template.render(example).ids for example in found.examples]
    for row, example in zip(rows, ids, strict=True):
        asked = [ChatMessage.model_validate(row["messages"][0])]
        prompt = template.prompt(conversation(asked, []))
        assert list(example[: len(prompt)]) == prompt
    # None of them says the same as another: not in ids, not as rows, not as questions.
    assert len(set(ids)) == 3 and found.duplicates.count == 0
    assert len({e.question_key for e in found.examples}) == 3
