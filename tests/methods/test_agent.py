"""The method agent: fitted by a tuning, kept, asked again; which examples it may show."""

from __future__ import annotations

import json

import pytest

from rung.cli import run
from rung.methods.agent import holds
from tests.engine.world import tiny_llama
from tests.tokens import tiny_tokenizer
from tests.tools.world import switches

LAMPS = ("red", "blue")


def conversation(number: int) -> dict:
    """Question, call, result and reply, as OpenAI's clients write them."""
    lamp = LAMPS[number % 2]
    call = {"name": "switch", "arguments": json.dumps({"lamp": lamp})}
    return {"messages": [
        {"role": "user", "content": f"Light lamp {number}, which is {lamp}."},
        {"role": "assistant", "content": None,
         "tool_calls": [{"id": "c", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "c", "content": f"{lamp} is on"},
        {"role": "assistant", "content": f"{lamp} is on"},
    ]}  # fmt: skip


@pytest.fixture
def place(rung_home, tmp_path):
    data = tmp_path / "lamps.jsonl"
    data.write_text("".join(json.dumps(conversation(i)) + "\n" for i in range(40)))
    base = tmp_path / "tiny"
    tiny_llama(max_position_embeddings=4096).save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    return data, switches(tmp_path), base


def test_it_is_tuned_evaluated_and_asked_with_its_tools_alone(place, capsys):
    data, tools, base = place
    words = ["--data", str(data), "--tools", str(tools), "--base", str(base), "--choose-rows", "8"]
    told = ["--step-tokens", "48", "--steps", "1", "--call-shots", "1"]
    assert run(["tune", "clerk", "--method", "agent", *words, *told]) == 0
    assert "calls for an answer" in (said := capsys.readouterr()).out + said.err
    asked = ["--data", str(data), "--tools", str(tools), "--items", "4", "--json"]
    assert run(["eval", "clerk", *asked]) == 0
    told = json.loads(capsys.readouterr().out)["models"][0]
    assert told["name"] == "clerk" and told["more"]["steps_taken"] <= 1
    assert 0 <= told["more"]["right_calls"] <= told["more"]["right_tools"] <= 1
    assert run(["chat", "clerk", "-p", "Light the red lamp.", "--tools", str(tools), "--trace"]) == 0
    assert run(["show", "clerk"]) == 0
    assert "agent" in capsys.readouterr().out


def test_without_tools_it_says_what_to_name(place, capsys):
    data, _, base = place
    assert run(["tune", "clerk", "--method", "agent", "--data", str(data), "--base", str(base)]) == 2
    assert "--tools" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("result", "answer", "expected"),
    [
        ("<tool_response>12,000.0</tool_response>", "12000", True),
        ("1 <tool_response>2</tool_response>", "1", False),  # of the call, not of the result
        ("<tool_response>It is RED</tool_response>", "red", True),
        ("<tool_response>red</tool_response>", " ", False),
        ("<tool_response>7</tool_response>", "so 3+4 #### 7", True),
    ],
)
def test_a_result_holds_an_answer(result, answer, expected):
    assert holds(result, answer) is expected
