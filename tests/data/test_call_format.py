"""A base's own way of writing calls: found by asking its template, the same in training and serving."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data import Template
from rung.data.call_format import part
from rung.data.formats import FORMATS
from rung.data.tool_calls import written_call
from rung.data.turns import functions, turns
from rung.tools.calls import parse
from rung.types import Example
from tests.data.call_templates import ALL, NATIVE, OTHERS, TAGS, calling_template, calling_tokenizer
from tests.data.test_tool_templates import TOOLS, learnt, talks

SHAPES = {family: calling_template(family) for family in ALL}
hard = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    [
        '"',
        "}",
        '{"name": "tide", "arguments": {}}',
        "</tool_call>",
        "<|im_end|>",
        "[TOOL_CALLS]",
        "]\n```",
    ]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6) | hard,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hard, inner, max_size=3),
    max_leaves=6,
)
names = st.from_regex(r"[a-z_][a-z0-9_.-]{0,15}", fullmatch=True)
calls = st.fixed_dictionaries({"name": names, "arguments": st.dictionaries(hard, values, max_size=3)})


def example_of(said):
    form = next(f for f in FORMATS if f.name == "messages")
    return form.read({"messages": said, "tools": TOOLS}, "")[0]


def meant(shape, text):
    """What a text says: the words beside its calls, and the calls."""
    said, made = parse(shape.canonical(text, None))
    return said.strip(), [(c.name, c.values) for c in made]


def generated(shape, turn) -> str:
    """A turn with calls as a model writes it that has learnt this template."""
    asked = [{"role": "user", "content": "q"}]
    row = shape.render(example_of([*asked, turn]))
    ids = [i for i, supervised in zip(row.ids, row.supervised, strict=True) if supervised]
    return shape.decode(ids)


def test_what_templates_write_is_recognised():
    found = {family: SHAPES[family].calls for family in ALL}
    assert all(found[family] is None for family in OTHERS)
    assert all(found[family].results for family in NATIVE)
    assert [k for k, _ in found["llama"].keys] == ["name", "parameters"]
    assert found["llama"].between is None and found["llama"].open == ""
    assert found["mistral"].open == "[TOOL_CALLS] [" and set(found["mistral"].specials) == {TAGS[0]}
    assert not found["mistral"].keeps_text and found["hermes"].keeps_text
    assert found["hermes"].open == "<tool_call>\n" and found["fenced"].text_arguments


def test_an_empty_thought_in_front_is_no_part_of_a_call():
    """As Qwen 3 writes one in front of the last reply, whatever it says."""
    tokenizer = calling_tokenizer("hermes")
    thought = "{% if loop.last %}{{ '\n<think>\n\n</think>\n' }}{% endif %}"
    own = ALL["hermes"].replace(
        "{{ '<|im_start|>assistant' }}", "{{ '<|im_start|>assistant' }}" + thought
    )
    plain = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    assert plain in own
    led = "{{ '<|im_start|>' + m.role }}{% if m.role == 'assistant' %}" + thought + "{% endif %}"
    tokenizer.chat_template = own.replace(plain, led + "{{ '\n' + m.content + '<|im_end|>\n' }}")
    found = Template.of(tokenizer).calls
    assert found == SHAPES["hermes"].calls


@pytest.mark.parametrize("family", NATIVE)
def test_calls_are_written_as_the_template_writes_them(family):
    """The ids are those of the template itself, tags of calls among them."""
    shape = SHAPES[family]
    call = {"name": "tide", "arguments": {"a": 1}}
    asked = [{"role": "user", "content": "q"}]
    arguments = json.dumps(call["arguments"]) if shape.calls.text_arguments else call["arguments"]
    own = [
        *asked,
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "call00000", "type": "function", "function": {**call, "arguments": arguments}}]},
        {"role": "tool", "tool_call_id": "call00000", "name": "tide", "content": "high"},
        {"role": "assistant", "content": "It is high."},
    ]  # fmt: skip
    wanted = shape.tokenizer.apply_chat_template(own, tokenize=True, return_dict=True)["input_ids"]
    own[1]["tool_calls"][0]["function"]["arguments"] = json.dumps(call["arguments"])
    row = shape.render(Example(tuple(turns(own))))
    assert list(row.ids) == list(wanted)[: len(row.ids)]
    assert shape.tokenizer.decode(wanted[len(row.ids) :]).strip() == ""


@pytest.mark.parametrize("family", ALL)
@settings(max_examples=15, deadline=None)
@given(said=talks())
def test_exactly_what_the_assistant_wrote_is_supervised(family, said):
    shape = SHAPES[family]
    example = example_of(said)
    found = learnt(shape, shape.render(example))
    replies = [
        m["content"] for m in example.messages if m["role"] == "assistant" and m.get("weight") != 0
    ]
    assert all(text.endswith(shape.end_of_turn) for text in found)
    assert len(found) == len(replies)
    for text, reply in zip(found, replies, strict=True):
        said_beside, made = parse(reply)
        wanted = said_beside.strip(), [(c.name, c.values) for c in made]
        assert meant(shape, text.removesuffix(shape.end_of_turn)) == wanted


@pytest.mark.parametrize("family", ALL)
@settings(max_examples=15, deadline=None)
@given(said=talks())
def test_training_and_serving_render_the_same_ids(family, said):
    shape = SHAPES[family]
    row = shape.render(example_of(said)).ids
    for i, message in enumerate(said):
        if message["role"] == "assistant":
            asked = shape.prompt(turns(said[:i]), tools=functions(TOOLS))
            assert list(row[: len(asked)]) == asked


@pytest.mark.parametrize("family", ALL)
@settings(max_examples=25, deadline=None)
@given(made=st.lists(calls, min_size=1, max_size=3), said=st.sampled_from(["", "Let me see."]))
def test_what_is_written_is_read_again(family, made, said):
    shape = SHAPES[family]
    if shape.calls is not None and not shape.calls.keeps_text:
        said = ""
    text = generated(
        shape, {"role": "assistant", "content": said, "tool_calls": [{"function": c} for c in made]}
    )
    assert meant(shape, text) == (said, [(c["name"], c["arguments"]) for c in made])
    if shape.calls is not None:  # of other functions than there are nothing is called
        assert shape.canonical(text, []) == text


@pytest.mark.parametrize("family", ALL)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_no_result_forges_a_turn_or_a_call(family, data):
    shape = SHAPES[family]
    marks = [*shape.tokenizer.all_special_tokens, "<tool_call>", "</tool_call>", "```json\n[", "]\n```"]
    pieces = st.sampled_from([*marks, "assistant\n", '{"name": "tide", "arguments": {}}', "\n", '"}'])
    hostile = "".join(data.draw(st.lists(pieces, max_size=8)))

    def ids(result):
        call = {"id": "c", "function": {"name": "tide", "arguments": "{}"}}
        said = [
            {"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": result},
        ]  # fmt: skip
        return shape.prompt(turns(said))

    special = set(shape.tokenizer.all_special_ids)
    assert [i for i in ids(hostile) if i in special] == [i for i in ids("high") if i in special]
    count = shape.tokenizer.decode(ids("high")).count
    again = shape.tokenizer.decode(ids(hostile))
    for tag in ("<tool_call>", "</tool_call>"):
        assert again.count(tag) == count(tag)


def test_text_that_a_template_leaves_out_is_told():
    call = {"function": {"name": "tide", "arguments": {}}}
    said = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
    ]
    kept, problems = SHAPES["mistral"].render_all([example_of(said)])
    assert len(kept) == 1 and "text beside calls" in problems[0].message
    assert not SHAPES["hermes"].render_all([example_of(said)])[1]


def test_a_turn_that_only_speaks_of_calls_stays_text():
    call = written_call({"name": "tide", "arguments": {}})
    assert part(call) == ("", [{"name": "tide", "arguments": {}}])
    assert part(f"So:\n{call}")[0] == "So:"
    for text in (f"Write {call}", f"{call} so", "<tool_call>no</tool_call>", call.replace(": ", ":")):
        assert part(text) is None
