"""The loop: a call held to its schema, its result, and so on, then the reply."""

from __future__ import annotations

import dataclasses
import json

import pytest

from rung.data.turns import turns
from rung.errors import ArtefactError, ConfigError
from rung.tools import allowed
from rung.tools.agent import Agent, taken_steps
from rung.types import Decoding, Example
from tests.tools.world import switches

ASK = {"role": "user", "content": "Light the red lamp."}
CALL = '<tool_call>{"name": "switch", "arguments": {"lamp": "red"}}</tool_call>'


@pytest.fixture
def agent(rung_home, tmp_path):
    return Agent.of([switches(tmp_path)], steps=2, max_tokens=120)


def test_a_call_is_followed_by_its_result_and_a_text_by_nothing(agent):
    first = agent.follow([ASK], f"Let me see.\n{CALL}\n{CALL.replace('red', 'blue')}")
    assert [m["role"] for m in first] == ["assistant", "user", "user"]
    assert first[0]["content"].startswith("Let me see.\n<tool_call>")
    assert "red is on" in first[1]["content"] and "blue is on" in first[2]["content"]
    assert taken_steps([ASK, *first]) == 1
    second = agent.follow([ASK, *first], CALL)
    assert taken_steps([ASK, *first, *second]) == 2
    assert agent.follow([ASK, *first, *second], CALL) is None  # no more than two
    assert agent.follow([ASK], "It is on.") is None
    assert agent.follow([ASK], '<tool_call>{"name": "other", "arguments": {}}</tool_call>') is None


def test_errors_go_back_to_the_model(agent):
    wrong = agent.follow([ASK], CALL.replace("red", "pink"))
    assert "error: the arguments of switch do not fit" in wrong[1]["content"]
    failed = agent.follow([ASK], '<tool_call>{"name": "fail", "arguments": {"why": "a"}}</tool_call>')
    assert "error: ValueError: no a" in failed[1]["content"]


def test_the_grammar_follows_the_steps(agent):
    step = agent.follow([ASK], CALL)
    modes = [agent.grammar([ASK, *step * n])["mode"] for n in range(3)]
    assert modes == ["auto", "auto", "answer"]
    first = dataclasses.replace(agent, calls_first=True)
    assert [first.grammar([ASK, *step * n])["mode"] for n in range(2)] == ["call", "auto"]
    again = [ASK, *step, {"role": "assistant", "content": "On."}, ASK]
    assert first.grammar(again)["mode"] == "call"  # of the last question alone


def test_the_settings_come_back_and_damage_is_told(agent, tmp_path):
    step = agent.follow([ASK], CALL)
    full = dataclasses.replace(
        agent, system="Call.", examples=((ASK, *step, {"role": "assistant", "content": "On."}),)
    )
    assert Agent.read(json.loads(json.dumps(full.settings()))) == full
    full.write(tmp_path)
    assert Agent.read_folder(tmp_path) == full and Agent.read_folder(tmp_path / "none") is None
    (tmp_path / "tools.json").write_text("{}")
    with pytest.raises(ArtefactError, match="does not hold an agent's tools"):
        Agent.read_folder(tmp_path)


def test_a_model_from_elsewhere_runs_nothing(agent, monkeypatch, tmp_path):
    """What a model's folder names is run only where the owner of this machine has named it too."""
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "another"))
    read = Agent.read(agent.settings())
    with pytest.raises(ConfigError, match="nobody has named here"):
        read.follow([ASK], CALL)
    allowed.allow(agent.tools)
    assert read.follow([ASK], CALL)


def test_what_a_row_called_is_no_part_of_the_question():
    call = {"id": "1", "type": "function", "function": {"name": "switch", "arguments": "{}"}}
    said = [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, ASK,
        {"role": "assistant", "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "1", "content": "x"},
        {"role": "tool", "tool_call_id": "1", "content": "y"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "z"},
        {"role": "assistant", "content": "On."},
    ]  # fmt: skip
    row = Example(tuple(turns(said)))
    assert row.asked == row.messages[:-1]
    named = dataclasses.replace(row, tools=("switches.py",))
    assert [m["content"] for m in named.asked] == ["a", "b", ASK["content"]]
    assert named.digest == row.digest


def engine_with(agent):
    from rung.data import Template
    from rung.engine import Engine, ServedModel
    from rung.forward.bank import Bank
    from tests.engine.world import tiny_llama
    from tests.tokens import tiny_tokenizer

    template = Template.of(tiny_tokenizer())
    model = ServedModel("clerk", -1, template, conversation=agent)
    bank = Bank(tiny_llama(max_position_embeddings=4096))
    return Engine(bank, {"clerk": model}, memory=1 << 28), model


def test_a_base_of_random_weights_makes_only_calls_that_fit(agent):
    """Many questions at once, as each alone; every call is one that the schema allows."""
    from rung.engine.tool_loop import take_steps

    first = dataclasses.replace(agent, calls_first=True, steps=1)
    engine, model = engine_with(first)
    asked = [[{"role": "user", "content": f"question {i}"}] for i in range(3)]
    told = []
    found = take_steps(engine, model, asked, Decoding(max_tokens=75), progress=told.append)
    assert sum(told) == 3
    for one in found:
        assert one.results and all("error" not in text or "no " in text for text in one.results)
        assert all("error: the arguments" not in text for text in one.results)
        assert len(one.completions) == taken_steps(one.now) + 1
        assert one.prompt_tokens == sum(c.prompt_tokens for c in one.completions)
    alone = take_steps(engine, model, asked[:1], Decoding(max_tokens=75))
    assert alone[0].turns == found[0].turns


def test_evaluations_ask_in_the_loop_and_count_calls(agent):
    from rung.evals.predict import predict
    from rung.types import Task

    engine, model = engine_with(dataclasses.replace(agent, calls_first=True, steps=1, max_tokens=75))
    rows = [
        Example(({"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": "a"}))
        for i in range(2)
    ]
    answers = predict(engine.bank, model, rows, Task("generation", "rouge_l"))
    assert answers.calls is not None and sum(one.count for one in answers.calls) >= 2
    assert all("<tool_call>" not in text for text in answers.texts)
    calls = predict(engine.bank, model, rows, Task("tool_calls", "exact_call"))
    assert calls.calls is None and all("<tool_call>" in text for text in calls.texts)
