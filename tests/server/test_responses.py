"""Model responses: the official client against a live server."""

from __future__ import annotations

import json

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from rung.store import Store
from tests.engine.world import engine_of, tiny_llama
from tests.server.conftest import serve
from tests.server.shop import client_of
from tests.server.test_keys import soon

SEEDED = {"model": "base", "temperature": 1.0, "max_output_tokens": 12, "extra_body": {"seed": 11}}
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}},
    "required": ["mood"],
    "additionalProperties": False,
}
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "name": "weather", "parameters": CITY, "strict": True}
EVENTS = TypeAdapter(ResponseStreamEvent)


def said(text, role="user"):
    return {"role": role, "content": text}


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_HOME", str(tmp_path_factory.mktemp("responses")))
        patch.delenv("RUNG_STORE", raising=False)
        served = serve(engine_of(tiny_llama(max_position_embeddings=1024), ("lora",)))
        yield served
        served.stop()


@pytest.fixture
def prompts(live, monkeypatch):
    """The ids of every prompt that the engine gets."""
    seen = []
    submit = live.engine.submit_all

    def noted(requests, *settings):
        seen.extend(one.prompt.ids for one in requests)
        return submit(requests, *settings)

    monkeypatch.setattr(live.engine, "submit_all", noted)
    return seen


def streamed(client, **settings):
    """The events of a stream, each held to the official client's type."""
    raw = client.responses.with_raw_response.create(stream=True, **settings).parse()
    events = [EVENTS.validate_python(event.to_dict(), strict=False) for event in raw]
    assert [e.sequence_number for e in events] == list(range(len(events)))
    return events


def test_an_input_is_counted_as_it_would_be_read(live):
    client = client_of(live)
    first = client.responses.create(input="How are you?", **SEEDED)
    more = {
        "model": "base",
        "input": [said("And then?")],
        "instructions": "Be brief",
        "tools": [WEATHER],
    }
    for before in (None, first.id):
        asked = {**more, **({"previous_response_id": before} if before else {})}
        answered = client.responses.create(**asked, max_output_tokens=4)
        counted = client.responses.input_tokens.count(**asked)
        assert counted.object == "response.input_tokens"
        assert counted.input_tokens == answered.usage.input_tokens
    with pytest.raises(openai.BadRequestError, match="truncation"):
        client.responses.input_tokens.count(**more, truncation="auto")
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.input_tokens.count(**more, previous_response_id="resp_none")
    assert refused.value.param == "previous_response_id"


def alike(response):
    """A response without what is its own."""
    told = response.to_dict()
    items = [{k: v for k, v in i.items() if k not in ("id", "call_id")} for i in told.pop("output")]
    usage = told.pop("usage")
    counts = usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]
    for own in ("id", "created_at", "completed_at"):
        told.pop(own, None)
    return told, items, counts


def test_a_text_is_answered_as_a_chat_is(client, live):
    answer = client.responses.create(input="Hello there", instructions="Be brief", **SEEDED)
    Response.model_validate(answer.to_dict())
    chat = client.chat.completions.create(
        model="base", temperature=1.0, max_tokens=12, seed=11,
        messages=[said("Be brief", "system"), said("Hello there")],
    )  # fmt: skip
    assert answer.output_text == chat.choices[0].message.content
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (
        chat.usage.prompt_tokens, chat.usage.completion_tokens, chat.usage.total_tokens
    )  # fmt: skip
    assert (answer.object, answer.model, answer.temperature) == ("response", "base", 1.0)
    if chat.choices[0].finish_reason == "length":
        assert answer.status == "incomplete"
        assert answer.incomplete_details.reason == "max_output_tokens"
        assert answer.output[0].status == "incomplete"
    else:
        assert answer.status == answer.output[0].status == "completed"
    whole = live.engine.models["base"].decoding
    assert client.responses.create(model="base", input="Hi", max_output_tokens=1).top_p == whole.top_p


def test_a_stream_has_the_events_of_the_official_client(client):
    whole = client.responses.create(input="Hello there", metadata={"of": "me"}, **SEEDED)
    events = streamed(client, input="Hello there", metadata={"of": "me"}, **SEEDED)
    kinds = [e.type.removeprefix("response.") for e in events]
    first = kinds.index("output_text.delta")
    last = len(kinds) - 1 - kinds[::-1].index("output_text.delta")
    assert set(kinds[first : last + 1]) == {"output_text.delta"}
    assert kinds[:first] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[last + 1 : -1] == ["output_text.done", "content_part.done", "output_item.done"]
    assert kinds[-1] == whole.status
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == whole.output_text == events[last + 1].text
    final = events[-1].response
    assert alike(final) == alike(whole)
    assert {e.response.id for e in (events[0], events[1], events[-1])} == {final.id}
    assert {e.item_id for e in events if hasattr(e, "item_id")} == {final.output[0].id}
    assert client.responses.retrieve(final.id) == final


def test_the_clients_own_accumulator_reads_the_stream(client):
    settings = {k: v for k, v in SEEDED.items() if k != "max_output_tokens"}
    form = {"format": {"type": "json_schema", "name": "mood", "schema": SCHEMA, "strict": True}}
    with client.responses.stream(input="How?", text=form, max_output_tokens=64, **settings) as stream:
        final = stream.get_final_response()
    assert final.status == "completed"
    assert json.loads(final.output_text)["mood"] in ("good", "bad")
    assert final.text.format.name == "mood"


@pytest.mark.parametrize("kind", ["json_schema", "json_object"])
def test_a_format_holds_the_answer(client, kind):
    form = {"type": kind}
    if kind == "json_schema":
        form |= {"name": "mood", "schema": SCHEMA}
    answer = client.responses.create(
        model="base", input="How?", text={"format": form}, max_output_tokens=200, temperature=0
    )
    if answer.status == "completed":
        assert isinstance(json.loads(answer.output_text), dict)
    assert kind == "json_object" or answer.status == "completed"
    with pytest.raises(openai.BadRequestError) as fault:
        broken = {"type": "json_schema", "name": "x", "schema": {"type": "nothing"}}
        client.responses.create(model="base", input="How?", text={"format": broken})
    assert fault.value.param == "text.format"


def test_a_conversation_goes_on_where_a_response_ended(client, prompts):
    first = client.responses.create(input="Hello there", instructions="Be brief", **SEEDED)
    second = client.responses.create(
        input="And then?", previous_response_id=first.id, instructions="Be long", **SEEDED
    )
    third = client.responses.create(input="More", previous_response_id=second.id, **SEEDED)
    own = [said("Hello there"), *first.output, said("And then?"), *second.output, said("More")]
    at_once = client.responses.create(input=own, **SEEDED)
    assert prompts[-2] == prompts[-1]
    assert third.output_text == at_once.output_text
    assert third.previous_response_id == second.id
    inputs = [list(client.responses.input_items.list(r.id, order="asc")) for r in (third, at_once)]
    texts = [[item.content[0].text for item in items] for items in inputs]
    assert texts[0] == texts[1] == [
        "Hello there", first.output_text, "And then?", second.output_text, "More",
    ]  # fmt: skip
    client.responses.delete(first.id)
    again = client.responses.create(input="More", previous_response_id=second.id, **SEEDED)
    assert again.output_text == third.output_text


def test_a_function_is_called_and_its_result_read(client, prompts):
    settings = {"model": "base", "tools": [WEATHER], "temperature": 0}
    asked = [said("Weather in Rome?")]
    chosen = {"type": "function", "name": "weather"}
    answer = client.responses.create(input=asked, tool_choice=chosen, max_output_tokens=80, **settings)
    assert answer.status == "completed"
    (call,) = answer.output
    assert (call.type, call.name, call.status) == ("function_call", "weather", "completed")
    assert json.loads(call.arguments)["city"] in ("Rome", "Oslo")
    events = streamed(client, input=asked, tool_choice="required", max_output_tokens=80, **settings)
    kinds = [e.type.removeprefix("response.") for e in events]
    assert kinds == [
        "created", "in_progress", "output_item.added", "function_call_arguments.delta",
        "function_call_arguments.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert events[3].delta == events[4].arguments == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    few = {**settings, "max_output_tokens": 4}
    client.responses.create(input=[*asked, call, result], **few)
    client.responses.create(input=[result], previous_response_id=answer.id, **few)
    called = {"name": "weather", "arguments": call.arguments}
    client.chat.completions.create(
        model="base",
        max_tokens=4,
        tools=[{"type": "function", "function": {"name": "weather", "parameters": CITY}}],
        messages=[
            *asked,
            {
                "role": "assistant",
                "tool_calls": [{"id": call.call_id, "type": "function", "function": called}],
            },
            {"role": "tool", "tool_call_id": call.call_id, "content": "sunny"},
        ],
    )
    assert prompts[-3] == prompts[-2] == prompts[-1]


def test_stored_responses_are_listed_and_deleted(client):
    items = [said("one"), said("two", "assistant"), said("three")]
    answer = client.responses.create(input=items, **SEEDED)
    assert client.responses.retrieve(answer.id) == answer
    found = list(client.responses.input_items.list(answer.id, limit=2))
    assert [i.content[0].text for i in found] == ["three", "two", "one"]  # two pages
    client.responses.delete(answer.id)
    for call in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            call(answer.id)
    with pytest.raises(openai.BadRequestError) as fault:
        client.responses.create(input="x", previous_response_id=answer.id, **SEEDED)
    assert fault.value.code == "previous_response_not_found"
    fleeting = client.responses.create(input="x", store=False, **SEEDED)
    assert fleeting.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(fleeting.id)


@pytest.mark.parametrize(
    ("param", "said_", "told"),
    [
        ("background", {"background": True}, "background"),
        ("conversation", {"conversation": "conv_1"}, "conversation"),
        ("prompt", {"prompt": {"id": "pmpt_1"}}, "prompt"),
        ("include", {"include": ["message.output_text.logprobs"]}, "include"),
        ("truncation", {"truncation": "auto"}, "truncation"),
        ("max_tool_calls", {"max_tool_calls": 2}, "max_tool_calls"),
        ("reasoning.effort", {"reasoning": {"effort": "high"}}, "effort"),
        ("text.verbosity", {"text": {"verbosity": "low"}}, "verbosity"),
        ("tools", {"tools": [{"type": "web_search"}]}, "web_search"),
        ("tool_choice", {"tool_choice": {"type": "file_search"}}, "file_search"),
        ("tool_choice", {"tool_choice": "required"}, "tools"),
        ("input", {"input": [{"type": "reasoning", "id": "r", "summary": []}]}, "reasoning"),
        ("input", {"input": [said([{"type": "input_image", "image_url": "x"}])]}, "input_image"),
        ("text.format", {"text": {"format": {"type": "grammar"}}}, "grammar"),
        ("colour", {"colour": "red"}, "colour"),
        ("max_tokens", {"max_tokens": 3}, "max_tokens"),
        ("stream_options", {"stream_options": {"include_obfuscation": False}}, "stream"),
        ("input", {"max_output_tokens": 100_000}, "context"),
    ],
)
def test_what_cannot_be_heeded_is_refused_by_name(http, param, said_, told):
    body = {"model": "base", "input": "Hello", **said_}
    answer = http.post("/v1/responses", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and told in error["message"]


def test_input_that_cannot_be_read_is_refused(http):
    for wrong in (None, [], 3, [3], [{"role": "user"}], [said("x", "tool")], [{"type": 3}], [said(3)]):
        answer = http.post("/v1/responses", json={"model": "base", "input": wrong})
        assert answer.status_code == 400 and answer.json()["error"]["param"].startswith("input"), wrong
    answer = http.post("/v1/responses", json={"model": "base"})
    assert answer.json()["error"]["message"] == "'input' is required"
    assert http.post("/v1/responses", json={"model": "bse", "input": "x"}).status_code == 404
    assert http.get("/v1/responses/resp_x?stream=true").json()["error"]["param"] == "stream"


@pytest.fixture
def bounded(rung_home):
    from rung.server.state import Limits

    with Store.open() as store:
        made = serve(engine_of(tiny_llama(), ()), limits=Limits(max_responses=2))
        yield store, made
        made.stop()


def test_a_response_is_its_keys_own_and_the_oldest_go(bounded):
    store, served = bounded
    secrets = [store.keys.add(name, scopes=["ask"])[1] for name in ("one", "two")]
    _, over = store.keys.add("over")
    served.app.state.service.access.refresh()
    soon(lambda: served.app.state.service.access.locked)
    few = {"model": "base", "max_output_tokens": 1}
    with (
        client_of(served, secrets[0]) as one,
        client_of(served, secrets[1]) as two,
        client_of(served, over) as admin,
    ):
        kept = one.responses.create(input="mine", **few)
        assert one.responses.retrieve(kept.id) == kept == admin.responses.retrieve(kept.id)
        for call in (two.responses.retrieve, two.responses.delete, two.responses.input_items.list):
            with pytest.raises(openai.NotFoundError):
                call(kept.id)
        with pytest.raises(openai.BadRequestError, match="no response"):
            two.responses.create(input="x", previous_response_id=kept.id, **few)
        for _ in range(3):
            two.responses.create(input="x", **few)
        assert one.responses.retrieve(kept.id) == kept
        later = [one.responses.create(input="x", **few) for _ in range(2)]
        with pytest.raises(openai.NotFoundError):
            one.responses.retrieve(kept.id)
        assert [one.responses.retrieve(r.id) for r in later] == later


def test_a_server_may_store_none(rung_home):
    from rung.server.state import Limits

    served = serve(engine_of(tiny_llama(), ()), limits=Limits(max_responses=0))
    with client_of(served) as client:
        assert client.responses.create(model="base", input="x", max_output_tokens=1).store is False
        with pytest.raises(openai.BadRequestError, match="stores no responses"):
            client.responses.create(model="base", input="x", store=True)
    served.stop()
