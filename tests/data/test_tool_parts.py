"""Calls and results in Anthropic's parts of a content say what OpenAI's fields say."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data import DataKnobs, load
from rung.data.format_strings import Missing
from rung.data.turns import functions, turns, unread
from rung.errors import DataError

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
names = st.sampled_from(["tide", "wind", "map_of"])
inputs = st.dictionaries(
    words, st.one_of(words, st.integers(), st.lists(words, max_size=2)), max_size=2
)
rounds = st.fixed_dictionaries({
    "asked": words,
    "thought": st.one_of(st.none(), words),
    "text": st.lists(words, max_size=2),
    "calls": st.lists(st.tuples(names, inputs, st.one_of(st.none(), words)), max_size=3),
    "after": st.lists(words, max_size=2),
    "reply": words,
})  # fmt: skip


def texts(said: list[str]) -> list[dict]:
    return [{"type": "text", "text": text} for text in said]


def of_anthropic(number: int, said: dict) -> list[dict]:
    thought = [{"type": "thinking", "thinking": said["thought"]}] if said["thought"] else []
    uses = [
        {"type": "tool_use", "id": f"{number}-{i}", "name": name, "input": given}
        for i, (name, given, _) in enumerate(said["calls"])
    ]
    results = [
        {"type": "tool_result", "tool_use_id": f"{number}-{i}", "content": result}
        for i, (_, _, result) in enumerate(said["calls"])
    ]
    found = [{"role": "user", "content": said["asked"]}]
    if thought or said["text"] or uses:
        found += [{"role": "assistant", "content": [*thought, *texts(said["text"]), *uses]}]
    if results or said["after"]:
        found += [{"role": "user", "content": [*results, *texts(said["after"])]}]
    return [*found, {"role": "assistant", "content": said["reply"]}]


def of_openai(number: int, said: dict) -> list[dict]:
    calls = [
        {"id": f"{number}-{i}", "type": "function",
         "function": {"name": name, "arguments": json.dumps(given)}}
        for i, (name, given, _) in enumerate(said["calls"])
    ]  # fmt: skip
    found: list[dict] = [{"role": "user", "content": said["asked"]}]
    if said["thought"] or said["text"] or calls:
        reply = {"role": "assistant", "content": "".join(said["text"]), "tool_calls": calls}
        found += [reply | ({"reasoning_content": said["thought"]} if said["thought"] else {})]
    for i, (_, _, result) in enumerate(said["calls"]):
        found += [{"role": "tool", "tool_call_id": f"{number}-{i}", "content": result}]
    if said["after"]:
        found += [{"role": "user", "content": "".join(said["after"])}]
    return [*found, {"role": "assistant", "content": said["reply"]}]


@settings(max_examples=150, deadline=None)
@given(st.lists(rounds, min_size=1, max_size=3))
def test_both_vendors_words_become_the_same_turns(said):
    theirs = [m for n, one in enumerate(said) for m in of_anthropic(n, one)]
    ours = [m for n, one in enumerate(said) for m in of_openai(n, one)]
    assert turns(theirs) == turns(ours)
    assert not unread(theirs)


CALL = {"type": "tool_use", "id": "c", "name": "tide", "input": {"at": 3}}
RESULT = {"type": "tool_result", "tool_use_id": "c", "content": "7 m"}
WRITTEN = '<tool_call>{"name": "tide", "arguments": {"at": 3}}</tool_call>'
ASKED = {"role": "user", "content": "How high?"}
REPLY = {"role": "assistant", "content": "7 m."}


def row(use: object = CALL, result: object = RESULT) -> list[dict]:
    return [
        ASKED,
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
        REPLY,
    ]


def test_text_around_calls_keeps_its_place():
    said = [*texts(["I ", "look."]), CALL, *texts(["And again."]), {**CALL, "id": "d"}]
    (turn,) = turns([{"role": "assistant", "content": said}])
    assert turn["content"] == f"I look.\n{WRITTEN}\nAnd again.\n{WRITTEN}"


def test_a_result_in_parts_an_error_and_an_input_as_json():
    found = turns(row({**CALL, "input": '{"at": 3}'}, {**RESULT, "content": texts(["a", "b"])}))
    assert found[1]["content"] == WRITTEN
    assert found[2]["content"] == "The result of tide:\n<tool_response>ab</tool_response>"
    assert "Error: no tide" in turns(row(result={**RESULT, "content": "no tide", "is_error": True}))[2][
        "content"
    ]  # fmt: skip


def test_the_number_of_an_answered_call_may_be_used_again():
    assert turns(row() * 2) == turns(row()) * 2


@pytest.mark.parametrize("nothing", [None, [], "[]", "null", ""])
def test_no_calls_in_any_words_are_none(nothing):
    said = {"role": "assistant", "content": "Ebb.", "tool_calls": nothing}
    assert turns([said]) == [{"role": "assistant", "content": "Ebb."}]


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        (row(result={**RESULT, "tool_use_id": "x"}), "3: the tool_result 'x' answers no tool_use"),
        (row(use={**CALL, "input": [3]}), "2: the 'input' of the tool_use of tide is no obj"),
        (row(use={**CALL, "input": "at 3"}), "is no object"),
        (row(use={"type": "tool_use", "id": "c", "name": "tide"}), "is no object"),
        (row(use={"type": "tool_use", "id": "c", "input": {}}), "a tool_use that names no function"),
        (row(use={"type": "tool_use", "name": "tide", "input": {}}), "use of tide has no 'id'"),
        (row(result={"type": "tool_result", "content": "7"}), "has no 'tool_use_id'"),
        (row(result={**RESULT, "content": [{"type": "image", "source": {}}]}), "something beside text"),
        (row(result={**RESULT, "content": 7}), "no text"),
        ([*row()[:3], *row()[2:]], "message 4: a second tool_result answers the tool_use 'c'"),
        ([{"role": "user", "content": [CALL]}], "only an assistant calls"),
        ([ASKED, {"role": "assistant", "content": [CALL, RESULT]}], "belongs into a user message"),
        ([{"role": "system", "content": [RESULT]}], "belongs into a user message"),
        ([ASKED, {"role": "assistant", "content": [{**CALL, "type": "server_tool_use"}]}],
         "content of type 'server_tool_use'"),
    ],
)  # fmt: skip
def test_what_is_ill_formed_is_refused_with_its_place(write, messages, told):
    with pytest.raises(Missing, match=told):
        turns(messages)
    path = write(
        "rows.jsonl", json.dumps({"messages": row()}) + "\n" + json.dumps({"messages": messages})
    )
    with pytest.raises(DataError, match=f"rows.jsonl:2: .*{told}") as refused:
        load(DataKnobs(data=path))
    assert "\n" not in str(refused.value)


def test_a_row_with_tools_and_what_is_left_out(write):
    tool = {"name": "tide", "description": "d", "input_schema": {"type": "object", "required": ["at"]}}
    held = {"messages": row(use={**CALL, "cache_control": {"type": "ephemeral"}}), "tools": [tool],
            "system": texts(["Be kind."])}  # fmt: skip
    found = load(DataKnobs(data=write("rows.jsonl", json.dumps(held))))
    (example,) = found.examples
    assert [m["role"] for m in example.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert example.messages[2]["content"] == WRITTEN
    assert any("cache_control of messages (1 row)" in p.message for p in found.problems)
    assert functions([tool])[0]["function"]["parameters"] == tool["input_schema"]


@pytest.mark.parametrize("kind", ["text", "tool_use", "tool_result", "thinking", "inner"])
def test_fields_of_parts_that_say_more_are_named(kind):
    def marked(part: dict) -> dict:
        return {**part, "cache_control": {"type": "ephemeral"}} if part["type"] == kind else part

    inner = {"type": "text", "text": "7 m", **({"citations": ["x"]} if kind == "inner" else {})}
    said = [
        {"role": "user", "content": [marked({"type": "text", "text": "How high?"})]},
        {
            "role": "assistant",
            "content": [marked({"type": "thinking", "thinking": "Hm."}), marked(CALL)],
        },
        {"role": "user", "content": [marked({**RESULT, "content": [inner]})]},
    ]
    assert unread(said) == {"citations" if kind == "inner" else "cache_control"}


@pytest.mark.parametrize(
    "parts",
    [
        [CALL],
        [*texts(["I ", "look."]), CALL],
        [
            *texts(["I look."]),
            CALL,
            {**CALL, "id": "d"},
            *texts(["And ", "again."]),
            {**CALL, "id": "e"},
        ],
        [CALL, *texts(["", "So."])],
        [CALL, *texts([""]), {**CALL, "id": "d"}],
    ],
)
def test_a_row_and_a_request_of_the_messages_api_become_the_same_turns(parts):
    from rung.server.messages_api_schema import MessageRequest
    from rung.server.tools import conversation

    said = [ASKED, {"role": "assistant", "content": parts}, *row()[2:3]]
    asked = MessageRequest.model_validate({"model": "m", "max_tokens": 1, "messages": said})
    assert conversation(asked.chat().messages, []) == turns(said)
