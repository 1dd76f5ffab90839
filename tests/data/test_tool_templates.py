"""Rows with tool calls, over the ways in which chat templates tell a model of its tools.

Of every conversation exactly what the assistant wrote is supervised, and a server that is asked for one
of its replies renders the ids that training saw in front of it.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data.formats import FORMATS
from rung.data.turns import functions, turns

from .conftest import CHATML, INST, template

# What each family's documentation says of where tools stand; written here anew, shortened.
FAMILIES = {
    # Qwen, Hermes: a system message of its own, one tool a line within <tools>.
    "hermes": (
        "{% if tools %}{{ '<|im_start|>system\nYou may call functions.\n<tools>' }}"
        "{% for t in tools %}{{ '\n' + (t | tojson) }}{% endfor %}{{ '\n</tools><|im_end|>\n' }}"
        "{% endif %}" + CHATML
    ),
    # Llama 3.1: the first user message begins with the tools.
    "llama": (
        "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n\n' }}"
        "{% set first = 1 if messages[0].role == 'system' else 0 %}"
        "{% if tools and m.role == 'user' and loop.index0 == first %}"
        "{{ 'Given the following functions, respond with JSON.\n' }}"
        "{% for t in tools %}{{ t | tojson(indent=4) + '\n\n' }}{% endfor %}{% endif %}"
        "{{ (m.content | trim) + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
    ),
    # Mistral: the tools stand in front of the last user message, and move as the talk goes on.
    "mistral": (
        "{{ bos_token }}{% set ns = namespace(last=-1) %}{% for m in messages %}"
        "{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}{% if m.role == 'user' %}{% if tools and loop.index0 == ns.last %}"
        "{{ '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}"
        "{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
    ),
    # Granite, Phi: a role of its own for the tools.
    "role": (
        "{% if tools %}{{ '<|im_start|>available_tools\n' + (tools | tojson) + '<|im_end|>\n' }}"
        "{% endif %}" + CHATML
    ),
    # Command, DeepSeek: within the system message, behind what it says.
    "system": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
        "{% if tools and loop.first %}{{ '\n## Tools\n' }}"
        "{% for t in tools %}{{ '- ' + t.function.name + ': ' + (t | tojson) + '\n' }}{% endfor %}"
        "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    # No tools in it: they are told in the system message.
    "none": CHATML,
    "none, without roles": INST,
}  # fmt: skip

words = st.text('abcdefghij <>{}"\n', min_size=1, max_size=12).filter(lambda w: w.strip() == w != "")
names = st.sampled_from(["tide", "sum", "look_up"])
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name, "description": "what <it> does", "parameters": {"type": "object"}
        },
    }
    for name in ("tide", "sum", "look_up")
]  # fmt: skip


@st.composite
def talks(draw):
    """A conversation in OpenAI's words: each reply calls tools, one or several at once, or answers."""
    said, called = [], 0
    if draw(st.booleans()):
        said.append({"role": "system", "content": draw(words)})
    for _ in range(draw(st.integers(1, 2))):
        said.append({"role": "user", "content": draw(words)})
        for _ in range(draw(st.integers(0, 2))):
            calls = [
                {"id": f"c{called + i}", "type": "function", "function": {
                    "name": draw(names), "arguments": json.dumps({"a": draw(words)})}}
                for i in range(draw(st.integers(1, 2)))
            ]  # fmt: skip
            called += len(calls)
            said.append({"role": "assistant", "content": None, "tool_calls": calls})
            said += [{"role": "tool", "tool_call_id": c["id"], "content": draw(words)} for c in calls]
        said.append({"role": "assistant", "content": draw(words)})
        if draw(st.booleans()):
            said[-1]["weight"] = 0
    said[-1].pop("weight", None)
    return said


def learnt(shape, row) -> list[str]:
    """The supervised stretches of a row as texts."""
    found, ids = [], []
    for number, supervised in zip([*row.ids, 0], [*row.supervised, False], strict=True):
        if supervised:
            ids.append(number)
        elif ids:
            found.append(shape.tokenizer.decode(ids, skip_special_tokens=False))
            ids = []
    return found


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(said=talks())
def test_exactly_what_the_assistant_wrote_is_supervised(family, said):
    one = template(shape=FAMILIES[family])
    form = next(f for f in FORMATS if f.name == "messages")
    (example,) = form.read({"messages": said, "tools": TOOLS}, "")
    row = one.render(example)
    wrote = [
        m["content"] for m in example.messages if m["role"] == "assistant" and m.get("weight") != 0
    ]
    found = learnt(one, row)
    assert [text.removesuffix(one.end_of_turn).strip() for text in found] == wrote[-len(found) :]
    if family != "mistral":  # whose earlier turns change as the talk goes on
        assert len(found) == len(wrote)
    assert all(text.endswith(one.end_of_turn) for text in found)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(said=talks())
def test_training_and_serving_render_the_same_ids(family, said):
    one = template(shape=FAMILIES[family])
    form = next(f for f in FORMATS if f.name == "messages")
    last = max(i for i, m in enumerate(said) if m["role"] == "assistant")
    (example,) = form.read({"messages": said, "tools": TOOLS}, "")
    asked = one.prompt(turns(said[:last]), tools=functions(TOOLS))
    assert list(one.render(example).ids[: len(asked)]) == asked
