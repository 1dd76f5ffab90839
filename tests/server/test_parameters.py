"""Newer parameters of chat completions: each is heeded, or refused by name with the reason."""

from __future__ import annotations

import json

import pytest

from tests.server.test_faults import CHAT, TEXT, chat, fault_of, text

SAID = {"role": "assistant", "content": "Yes."}
CALLING = {"role": "assistant", "content": None}
USER = {"role": "user", "content": "What is the tide?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "tide", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "2 m"}


def tool(name: str) -> dict:
    parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"reasoning_effort": "high"}, "training"),
        ({"verbosity": "low"}, "training"),
        ({"prediction": {"type": "content", "content": "x"}}, "predicted"),
        ({"store": True}, "keeps no answers"),
        ({"metadata": {"a": "b"}}, "keeps no answers"),
        ({"service_tier": "flex"}, "'default'"),
        ({"prompt_cache_retention": "24h"}, "memory"),
        ({"web_search_options": {}}, "web"),
        ({"moderation": {"model": "x"}}, "owner"),
        ({"modalities": ["audio"]}, "text"),
    ],
)
def test_what_is_not_heeded_is_refused_by_name(http, given, reason):
    error = fault_of(http.post(CHAT, json=chat(**given)[1]), 400)
    (name,) = given
    assert error["param"] == name and error["code"] == "not_supported"
    assert f"'{name}'" in error["message"] and reason in error["message"]


@pytest.mark.parametrize(
    "messages",
    [
        [USER, {"role": "assistant", "tool_calls": [CALL]}, RESULT],
        [USER, CALLING | {"tool_calls": [CALL]}, RESULT | {"content": None}],
        [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c1"}],
        [USER, {"role": "assistant", "content": None}, USER],
        [USER, {"role": "assistant", "content": None, "tool_calls": []}, USER],
        [USER, {"role": "assistant", "content": "Yes.", "reasoning_content": "It is."}, USER],
        [USER, SAID | {"provider_specific_fields": {"a": 1}, "audio": None}, USER],
        [{**USER, "cache_control": {"type": "ephemeral"}}],
    ],
)  # fmt: skip
def test_history_is_taken_as_clients_send_it_back(http, messages):
    answer = http.post(CHAT, json=chat(messages=messages)[1])
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": None},
        {"role": "system"},
        {"role": "assistant", "content": "a", "weight": "x"},
    ],
)
def test_what_says_nothing_is_refused(http, message):
    assert fault_of(http.post(CHAT, json=chat(messages=[USER, message])[1]), 400)["param"].startswith(
        "messages"
    )


def test_no_limit_has_two_spellings(http):
    usual = chat(temperature=1.0, seed=3, max_tokens=8)[1]
    answers = [
        http.post(CHAT, json=usual | more).json()["choices"][0]["message"]["content"]
        for more in ({}, {"top_k": -1}, {"top_k": 0})
    ]
    assert answers[0] == answers[1] == answers[2]
    fault_of(http.post(CHAT, json=usual | {"top_k": -2}), 400)


def test_tools_are_narrowed_for_one_request(http):
    """The whole list stays as it is, which keeps it in the cache; a part of it may be called."""
    names = [{"type": "function", "function": {"name": "ebb"}}]
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": names}}
    given = {"tools": [tool("tide"), tool("ebb")], "max_tokens": 60, "temperature": 1.5}
    for seed in range(4):
        body = chat(**given, tool_choice=allowed, seed=seed)[1]
        calls = http.post(CHAT, json=body).json()["choices"][0]["message"]["tool_calls"]
        assert [call["function"]["name"] for call in calls] == ["ebb"]
    allowed["allowed_tools"]["tools"] = [{"type": "function", "function": {"name": "wind"}}]
    assert (
        fault_of(http.post(CHAT, json=chat(**given, tool_choice=allowed)[1]), 400)["param"]
        == "tool_choice"
    )


def test_a_reference_with_blanks_is_followed(http):
    """As generators of schemas write it: by RFC 3986 it would have to be `Sea%20Mood`."""
    mood = {"type": "string", "enum": ["calm"]}
    schema = {
        "type": "object", "properties": {"$ref": {"$ref": "#/$defs/Sea Mood é"}}, "required": ["$ref"],
        "$defs": {"Sea Mood é": mood}, "additionalProperties": False,
    }  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    body = chat(response_format=form, temperature=1.5, max_tokens=60)[1]
    content = http.post(CHAT, json=body).json()["choices"][0]["message"]["content"]
    assert json.loads(content) == {"$ref": "calm"}


@pytest.mark.parametrize("depth", [100, 300, 450, 1000, 20_000])
def test_any_depth_of_a_schema_is_refused_in_words(http, depth):
    """Around the depth that Python's own recursion bears, no part may be the one that breaks."""
    nested = '{"type":"object","properties":{"a":' * depth + '{"type":"string"}' + "}}" * depth
    usual = json.dumps(chat()[1])[:-1]
    for field in (
        '"response_format":{"type":"json_schema","json_schema":{"name":"s","schema":%s}}',
        '"tools":[{"type":"function","function":{"name":"f","parameters":%s}}]',
    ):
        sent = f"{usual},{field % nested}}}"
        answer = http.post(CHAT, content=sent, headers={"Content-Type": "application/json"})
        assert "nested" in fault_of(answer, 400)["message"]


def test_answers_carry_what_clients_read(http):
    whole = http.post(CHAT, json=chat()[1]).json()
    assert whole["service_tier"] == "default" and whole["system_fingerprint"].startswith("fp_")
    details = whole["usage"]["completion_tokens_details"]
    assert details["reasoning_tokens"] == 0 and details["accepted_prediction_tokens"] == 0
    lines = http.post(CHAT, json=chat(stream=True)[1]).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert {c["system_fingerprint"] for c in chunks} == {whole["system_fingerprint"]}
    assert {c["service_tier"] for c in chunks} == {"default"}
    plain = http.post(TEXT, json=text()[1]).json()
    assert plain["system_fingerprint"] == whole["system_fingerprint"]
