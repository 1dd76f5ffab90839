"""Anthropic's Messages API, asked by the official client."""

from __future__ import annotations

import pytest

anthropic = pytest.importorskip("anthropic")
TURN = [{"role": "user", "content": "Say 3"}]
COLD = {"extra_body": {"temperature": 0.0}}
TOOL = {
    "name": "weather",
    "description": "The weather of a place.",
    "input_schema": {
        "type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"],
        "additionalProperties": False,
    },
}  # fmt: skip


@pytest.fixture
def claude(live):
    with anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0) as made:
        yield made


def model_of(live) -> str:
    return next(iter(live.engine.models))


def test_a_message_whole_and_streamed_is_the_same(claude, live):
    asked = {"model": model_of(live), "max_tokens": 12, "messages": TURN, **COLD}
    whole = claude.messages.create(**asked)
    assert whole.type == "message" and whole.role == "assistant"
    assert whole.stop_reason in ("max_tokens", "end_turn")
    with claude.messages.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert [b.to_dict() for b in streamed.content] == [b.to_dict() for b in whole.content]
    assert streamed.stop_reason == whole.stop_reason
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    counted = claude.messages.count_tokens(model=asked["model"], messages=TURN)
    read = whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    assert counted.input_tokens == read


def test_it_says_what_chat_completions_say(claude, client, live):
    model = model_of(live)
    said = claude.messages.create(model=model, max_tokens=16, **COLD, system="Be brief.", messages=TURN)
    chat = client.chat.completions.create(
        model=model, max_tokens=16, temperature=0.0,
        messages=[{"role": "system", "content": "Be brief."}, *TURN],
    )  # fmt: skip
    assert "".join(b.text for b in said.content) == chat.choices[0].message.content


def test_a_forced_tool_and_its_result(claude, live):
    model = model_of(live)
    asked = {
        "model": model, "max_tokens": 100, "messages": TURN, "tools": [TOOL],
        "tool_choice": {"type": "tool", "name": "weather"}, **COLD,
    }  # fmt: skip
    made = claude.messages.create(**asked)
    assert made.stop_reason == "tool_use"
    (call,) = made.content
    assert call.type == "tool_use" and isinstance(call.input["warm"], bool)
    with claude.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert streamed.content[0].input == call.input and streamed.stop_reason == "tool_use"
    result = {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": [{"type": "text", "text": "yes"}],
    }
    turns = [*TURN, {"role": "assistant", "content": made.to_dict()["content"]},
             {"role": "user", "content": [result, {"type": "text", "text": "So?"}]}]  # fmt: skip
    assert claude.messages.create(model=model, max_tokens=4, messages=turns).usage.output_tokens <= 4


def test_the_text_that_stopped_it_is_named(claude, live):
    model = model_of(live)
    asked = {"model": model, "max_tokens": 40, "messages": TURN, **COLD}
    text = claude.messages.create(**asked).content[0].text
    middle = text[len(text) // 2]
    made = claude.messages.create(**asked, stop_sequences=["never said at all", middle])
    assert made.stop_reason == "stop_sequence" and made.stop_sequence == middle
    assert "".join(b.text for b in made.content) == text[: text.index(middle)]


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"model": "nobody"}, "NotFoundError", "nobody"),
        ({"max_tokens": 0}, "BadRequestError", "max_tokens"),
        ({"extra_body": {"temperature": 1.5}}, "BadRequestError", "temperature"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "BadRequestError", "thinking"),
        ({"tool_choice": {"type": "any"}}, "BadRequestError", "tools"),
        ({"extra_body": {"nonsense": 1}}, "BadRequestError", "nonsense"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            "BadRequestError",
            "messages",
        ),
    ],
)
def test_faults_are_told_in_its_own_shape(claude, live, change, kind, said):
    asked = {"model": model_of(live), "max_tokens": 4, "messages": TURN, **change}
    with pytest.raises(getattr(anthropic, kind)) as fault:
        claude.messages.create(**asked)
    body = fault.value.body
    assert body["type"] == "error" and said in body["error"]["message"]
    wanted = "not_found_error" if kind == "NotFoundError" else "invalid_request_error"
    assert body["error"]["type"] == wanted


def test_get_is_no_way_to_ask(http):
    answer = http.get("/v1/messages")
    assert answer.status_code == 405 and answer.json()["type"] == "error"
