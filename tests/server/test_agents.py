"""A served agent: the loop behind the API, and the same trajectory where the client runs it."""

from __future__ import annotations

import json

import openai
import pytest

from tests.server.conftest import serve
from tests.server.shop import client_of
from tests.tools.world import switches

ASKED = [{"role": "user", "content": "Which lamp is on?"}]


@pytest.fixture(scope="module")
def clerk(tmp_path_factory):
    from rung.tools.agent import Agent
    from tests.tools.test_agent import engine_with

    folder = tmp_path_factory.mktemp("agents")
    agent = Agent.of([switches(folder)], steps=1, calls_first=True, max_tokens=75, system="Call.")
    engine, _ = engine_with(agent)
    served = serve(engine)
    served.agent = agent
    yield served
    served.stop()


@pytest.fixture
def asking(clerk):
    with client_of(clerk) as made:
        yield made


def driven(client, agent, box, **settings):
    """OpenAI's loop as its clients write it -> every message behind the question."""
    messages = list(ASKED)
    while True:
        answer = client.chat.completions.create(
            model="clerk", messages=messages, tools=list(agent.functions), temperature=0, **settings
        )
        said = answer.choices[0].message
        messages.append(said.model_dump(exclude_none=True))
        if not said.tool_calls:
            return messages[1:]
        for call in said.tool_calls:
            gave = box.call(call.function.name, json.loads(call.function.arguments)).text
            messages.append({"role": "tool", "tool_call_id": call.id, "content": gave})


def test_client_and_server_go_the_same_way(clerk, asking):
    from rung.data.turns import turns
    from rung.tools.toolbox import open_toolbox

    whole = asking.chat.completions.create(
        model="clerk", messages=ASKED, temperature=0, extra_body={"trace": True}
    )
    stage = next(s for s in whole.trace["stages"] if s["stage"] == "tools")
    assert stage["calls"][0] >= 1 and whole.choices[0].finish_reason in ("stop", "length")
    assert whole.choices[0].message.tool_calls is None
    own = driven(asking, clerk.agent, open_toolbox(clerk.agent.tools))
    assert [dict(t) for t in turns(own[:-1])] == stage["steps"][0]
    assert own[-1]["content"] == whole.choices[0].message.content


def test_a_stream_ends_with_the_reply_of_the_loop(asking):
    whole = asking.chat.completions.create(model="clerk", messages=ASKED, temperature=0)
    chunks = asking.chat.completions.create(
        model="clerk", messages=ASKED, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    found = list(chunks)
    text = "".join(c.choices[0].delta.content or "" for c in found if c.choices)
    assert text == whole.choices[0].message.content
    assert found[-1].usage.total_tokens == whole.usage.total_tokens


def test_log_probabilities_of_an_agent_are_refused(asking):
    with pytest.raises(openai.BadRequestError, match="calls of its own tools") as caught:
        asking.chat.completions.create(model="clerk", messages=ASKED, logprobs=True)
    assert caught.value.param == "logprobs"


def test_every_step_counts(clerk, asking):
    prompt = len(clerk.engine.model("clerk").prompt(ASKED).ids)
    used = asking.chat.completions.create(model="clerk", messages=ASKED, temperature=0).usage
    assert used.prompt_tokens >= 2 * prompt


def test_a_client_may_call_tools_of_its_own(clerk, asking):
    """They are told and called in the place of the owner's, which then do not run."""
    own = {"type": "function", "function": {
        "name": "ring", "parameters": {
            "type": "object", "properties": {"bell": {"enum": ["a", "b"]}},
            "required": ["bell"], "additionalProperties": False}}}  # fmt: skip
    answer = asking.chat.completions.create(model="clerk", messages=ASKED, tools=[own], temperature=0)
    calls = answer.choices[0].message.tool_calls
    assert {c.function.name for c in calls} == {"ring"}


@pytest.fixture(scope="module", params=["llama", "mistral"])
def native(request, tmp_path_factory):
    """An agent on a base whose chat template writes calls its own way."""
    from rung.tools.agent import Agent
    from tests.tools.test_native_calls import engine_with as native_engine

    folder = tmp_path_factory.mktemp("native")
    agent = Agent.of([switches(folder)], steps=1, calls_first=True, max_tokens=110)
    served = serve(native_engine(agent, request.param)[0])
    served.agent = agent
    yield served
    served.stop()


@pytest.fixture
def natively(native):
    with client_of(native) as made:
        yield made


def test_client_and_server_go_the_same_way_in_a_templates_own_form(native, natively):
    from rung.data.turns import turns
    from rung.tools.toolbox import open_toolbox

    whole = natively.chat.completions.create(
        model="clerk", messages=ASKED, temperature=0, extra_body={"trace": True}
    )
    stage = next(s for s in whole.trace["stages"] if s["stage"] == "tools")
    own = driven(natively, native.agent, open_toolbox(native.agent.tools))
    assert stage["calls"][0] >= 1 and own[0]["tool_calls"]
    assert [dict(t) for t in turns(own[:-1])] == stage["steps"][0]
    assert own[-1]["content"] == whole.choices[0].message.content


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_calls_of_a_templates_own_form_are_streamed_as_they_are_given_whole(native, natively, choice):
    """With and without a forced call; what is forced fits the schema of its function."""
    told = {
        "model": "clerk", "messages": ASKED, "tools": list(native.agent.functions), "temperature": 0,
        "tool_choice": choice,
    }  # fmt: skip
    said = natively.chat.completions.create(**told).choices[0]
    whole = [(c.function.name, json.loads(c.function.arguments)) for c in said.message.tool_calls]
    assert whole and {name for name, _ in whole} <= {"switch", "fail"}
    deltas = [c.choices[0].delta for c in natively.chat.completions.create(**told, stream=True)]
    made = [c.function for delta in deltas for c in delta.tool_calls or ()]
    assert [(f.name, json.loads(f.arguments)) for f in made] == whole
    assert "".join(d.content or "" for d in deltas) == (said.message.content or "")


def test_a_form_stands_beside_calls_of_a_templates_own_form(native, natively):
    shape = {"type": "object", "properties": {"sure": {"enum": [True, False]}}, "required": ["sure"],
             "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "sure", "schema": shape, "strict": True}}
    drawn = natively.chat.completions.create(
        model="clerk", messages=ASKED, tools=list(native.agent.functions), response_format=form,
        temperature=2.0, seed=1, n=12, max_tokens=110, parallel_tool_calls=False,
    ).choices  # fmt: skip
    calls = [c.message.tool_calls[0].function for c in drawn if c.message.tool_calls]
    answers = [c.message.content for c in drawn if c.finish_reason == "stop"]
    assert all(json.loads(text)["sure"] in (True, False) for text in answers) and answers
    assert {call.name for call in calls} <= {"switch", "fail"} and calls
