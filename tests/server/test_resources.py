"""Every other resource through the official client: shapes, tools, scores, vectors, files."""

from __future__ import annotations

import json
import math
from typing import Any

import openai
import pytest

from tests.server.shop import base_folder, client_of, open_shop, upload, wait

HELLO = [{"role": "user", "content": "Hello there"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"enum": ["Oslo", "Rome"]}, "days": {"enum": [1, 2]}},
            "required": ["town", "days"],
            "additionalProperties": False,
        },
    },
}


def chat(client, **settings):
    settings = {"model": "lora", "messages": HELLO, "max_tokens": 60, **settings}
    return client.chat.completions.create(**settings)


# --- chat -----------------------------------------------------------------------------------------


def test_log_probabilities_are_the_models_own(client):
    told = chat(
        client, logprobs=True, top_logprobs=3, max_tokens=6, temperature=0, logit_bias={"65": 5}
    )
    content = told.choices[0].logprobs.content
    assert len(content) == told.usage.completion_tokens or told.choices[0].finish_reason == "stop"
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        values = [t.logprob for t in token.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert bytes(token.bytes).decode(errors="replace") == token.token
    plain = chat(client, logprobs=True, max_tokens=6, temperature=0)
    first = plain.choices[0].logprobs.content[0]
    assert first.top_logprobs == []
    # Greedy draws the likeliest, and a bias does not change what is told.
    assert math.isclose(first.logprob, content[0].top_logprobs[0].logprob, abs_tol=1e-5)
    chunks = list(chat(client, logprobs=True, max_tokens=6, temperature=0, stream=True))
    streamed = [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert [t.token for t in streamed] == [t.token for t in plain.choices[0].logprobs.content]


def test_penalties_and_bias_change_the_answer(client):
    def text(**settings):
        return (
            chat(client, **{"temperature": 0, "max_tokens": 24, **settings}).choices[0].message.content
        )

    free = text()
    assert text(frequency_penalty=2.0) != free != text(extra_body={"repetition_penalty": 5.0})
    assert len(set(text(logit_bias={"65": 100}))) == 1
    for extra in ({"top_k": 1}, {"min_p": 1.0}):
        assert text(temperature=1.5, seed=1, extra_body=extra) == free


def test_an_answer_has_the_shape_that_was_asked_for(client):
    schema = {"name": "town", "schema": WEATHER["function"]["parameters"], "strict": True}
    answer = chat(client, response_format={"type": "json_schema", "json_schema": schema})
    found = json.loads(answer.choices[0].message.content)
    assert found["town"] in ("Oslo", "Rome") and found["days"] in (1, 2)
    assert answer.choices[0].finish_reason == "stop"
    either = chat(
        client, response_format={"type": "choice", "choice": ["yes", "no"]}, n=3, temperature=1
    )
    assert {c.message.content for c in either.choices} <= {"yes", "no"}
    pattern = chat(client, response_format={"type": "regex", "regex": "[ab]{3}x"})
    assert (
        pattern.choices[0].message.content[-1] == "x" and len(pattern.choices[0].message.content) == 4
    )
    text = chat(client, response_format={"type": "json_object"}, max_tokens=40, temperature=0)
    assert text.choices[0].message.content.lstrip().startswith("{")


def test_a_forced_call_fits_its_schema(client):
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in ("required", named):
        answer = chat(client, tools=[WEATHER], tool_choice=choice, max_tokens=80).choices[0]
        assert answer.finish_reason == "tool_calls" and answer.message.content is None
        call = answer.message.tool_calls[0]
        assert call.function.name == "weather" and call.id.startswith("call_")
        assert json.loads(call.function.arguments)["town"] in ("Oslo", "Rome")
    chunks = list(chat(client, tools=[WEATHER], tool_choice="required", max_tokens=80, stream=True))
    calls = [c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls]
    assert json.loads(calls[0][0].function.arguments)["days"] in (1, 2) and calls[0][0].index == 0
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    older = chat(
        client, functions=[WEATHER["function"]], function_call={"name": "weather"}, max_tokens=80
    ).choices[0]  # fmt: skip
    assert older.finish_reason == "function_call" and older.message.function_call.name == "weather"


def test_tools_that_need_not_be_called_leave_text_alone(client, live):
    free = chat(client, tools=[WEATHER], temperature=0, max_tokens=12)
    assert free.choices[0].message.content and free.choices[0].message.tool_calls is None
    without = chat(client, temperature=0, max_tokens=12)
    assert free.usage.prompt_tokens > without.usage.prompt_tokens
    none = chat(client, tools=[WEATHER], tool_choice="none", temperature=0, max_tokens=12)
    assert none.choices[0].message.content == without.choices[0].message.content
    streamed = chat(client, tools=[WEATHER], temperature=0, max_tokens=12, stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in streamed)
    assert text == free.choices[0].message.content


def test_beside_tools_a_form_is_that_of_an_answer_and_calls_stay_possible(client):
    shape = {"type": "object", "properties": {"sure": {"enum": [True, False]}}, "required": ["sure"],
             "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "sure", "schema": shape, "strict": True}}
    wanted = {
        "tools": [WEATHER],
        "response_format": form,
        "max_tokens": 85,
        "parallel_tool_calls": False,
    }
    drawn = chat(client, **wanted, n=12, temperature=2.0, seed=1).choices
    for choice in drawn:
        if choice.finish_reason == "tool_calls":
            assert json.loads(choice.message.tool_calls[0].function.arguments)["days"] in (1, 2)
        else:
            assert json.loads(choice.message.content)["sure"] in (True, False)
    assert {c.finish_reason for c in drawn} == {"stop", "tool_calls"}
    streamed = list(chat(client, **wanted, temperature=2.0, seed=1, stream=True))
    ends = [c.choices[0].finish_reason for c in streamed if c.choices]
    assert ends[-1] in ("stop", "tool_calls")
    with pytest.raises(openai.BadRequestError, match="held to JSON alone") as caught:
        chat(client, tools=[WEATHER], response_format={"type": "regex", "regex": "a"})
    assert caught.value.param == "response_format"
    plain = chat(client, tools=[WEATHER], response_format={"type": "text"}, max_tokens=5)
    assert plain.choices[0].message


def test_answers_that_were_judged_first_stream_all_their_log_probabilities(live):
    import asyncio

    from rung.engine import Completion, Token
    from rung.server.chat_reply import ChatReply
    from rung.server.logprobs import TokenLogprobs

    tokens = (Token(5, "a", -0.1, ((5, -0.1),)), Token(6, "b", -0.2, ((6, -0.2),)))
    reply = ChatReply("base", [3])
    reply.pieces = TokenLogprobs(live.engine.model("base").template)
    told = asyncio.run(reply.replayed([Completion("ab", (5, 6), "length", 3, tokens)])).decode()
    chunks = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: {")]
    found = [c["choices"][0] for c in chunks if c["choices"]]
    shown = [t for c in found for t in (c.get("logprobs") or {}).get("content") or ()]
    assert [t["logprob"] for t in shown] == [-0.1, -0.2]
    assert "".join(c["delta"].get("content") or "" for c in found) == "ab"


def test_a_conversation_with_calls_goes_on(client):
    call = {"id": "call_1", "type": "function",
            "function": {"name": "weather", "arguments": '{"town": "Oslo", "days": 1}'}}  # fmt: skip
    messages = [
        *HELLO, {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]  # fmt: skip
    assert chat(client, messages=messages, max_tokens=5).choices[0].message
    old = [
        *HELLO, {"role": "assistant", "content": None, "function_call": call["function"]},
        {"role": "function", "name": "weather", "content": "rain"},
    ]  # fmt: skip
    assert chat(client, messages=old, max_tokens=5).choices[0].message


def test_calls_are_read_from_text():
    from rung.server.tools import Holding
    from rung.tools.calls import parse

    call = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    text, calls = parse(f"Let me look. {call}\n{call}", ["f"])
    assert text == "Let me look." and [json.loads(c.arguments) for c in calls] == [{"a": 1}] * 2
    assert parse('{"name": "f", "parameters": {"a": 1}}', ["f"])[1][0].arguments == '{"a": 1}'
    for plain in ('{"name": "g", "arguments": {}}', "<tool_call>nonsense</tool_call>", "3 < 4", ""):
        assert parse(plain, ["f"]) == (plain, [])
    for text in ("a <b> c", f"Let me look. {call}", call, '{"name": "f"}', "<tool", "  hi"):
        for size in (1, 3, 100):
            held = Holding()
            given = "".join(held.push(text[i : i + size]) for i in range(0, len(text), size))
            assert given + held.rest == text and "<tool_call>" not in given


def test_a_request_can_be_traced(client, live):
    answer = chat(client, max_tokens=3, extra_body={"trace": True})
    assert answer.trace["prompt_ids"] == [list(live.engine.model("lora").prompt(HELLO).ids)]


# --- completions ----------------------------------------------------------------------------------


def test_lm_evals_requests_score_a_prompt(client, live):
    """Token-id prompts with echo, as `local-completions` sends them, against the model itself."""
    import torch

    from tests.engine.world import tiny_llama

    engine = live.engine
    ids = engine.model("base").template.encode("The quick brown fox")
    answer = client.completions.create(
        model="base", prompt=[ids, ids[:7]], echo=True, max_tokens=1, logprobs=1, temperature=0, seed=1
    )  # fmt: skip
    with torch.no_grad():
        logits = tiny_llama()(torch.tensor([ids])).logits[0]
    expected = torch.log_softmax(logits.float(), -1)
    for choice, length in zip(answer.choices, (len(ids), 7), strict=True):
        told = choice.logprobs
        assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == length + 1
        assert told.token_logprobs[0] is None
        for i in range(1, length):
            assert math.isclose(told.token_logprobs[i], float(expected[i - 1, ids[i]]), abs_tol=2e-4)
            best = max(told.top_logprobs[i].values())
            assert math.isclose(best, float(expected[i - 1].max()), abs_tol=2e-4)
            greedy = int(expected[i - 1].argmax()) == ids[i]
            assert (told.token_logprobs[i] == best) == greedy
        assert "".join(told.tokens) == choice.text
        assert told.text_offset == [len("".join(told.tokens[:i])) for i in range(length + 1)]


def test_echo_alone_scores_without_drawing(client):
    asked = {"model": "lora", "prompt": "Hello", "echo": True}
    answer = client.completions.create(max_tokens=0, logprobs=0, **asked)
    assert answer.choices[0].text == "Hello" and answer.usage.completion_tokens == 0
    assert len(answer.choices[0].logprobs.tokens) == answer.usage.prompt_tokens
    plain = client.completions.create(max_tokens=2, **asked)
    assert plain.choices[0].text.startswith("Hello") and plain.choices[0].logprobs is None


def test_the_best_of_several_is_the_likeliest(client):
    asked = {"model": "lora", "prompt": "Hello", "max_tokens": 8, "temperature": 1.0, "seed": 3}
    every = client.completions.create(n=4, logprobs=0, **asked)
    means = [sum(c.logprobs.token_logprobs) / len(c.logprobs.tokens) for c in every.choices]
    best = client.completions.create(n=1, best_of=4, **asked)
    assert best.choices[0].text == every.choices[means.index(max(means))].text
    assert len(best.choices) == 1 and best.usage.completion_tokens == every.usage.completion_tokens


# --- embeddings -----------------------------------------------------------------------------------


def test_embeddings(client, live):
    texts = ["Hello", "Hello there", "Hello"]
    found = client.embeddings.create(model="base", input=texts)  # base64 by default
    assert [e.index for e in found.data] == [0, 1, 2]
    vectors = [e.embedding for e in found.data]
    assert vectors[0] == vectors[2] != vectors[1]
    assert all(math.isclose(sum(x * x for x in v), 1, abs_tol=1e-4) for v in vectors)
    floats = client.embeddings.create(model="base", input=texts[0], encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(vectors[0], abs=1e-6)
    short = client.embeddings.create(model="base", input=texts[0], dimensions=4).data[0].embedding
    norm = math.sqrt(sum(x * x for x in vectors[0][:4]))
    assert short == pytest.approx([x / norm for x in vectors[0][:4]], abs=1e-5)
    ids = live.engine.model("base").template.encode("Hello")
    again = client.embeddings.create(model="base", input=[ids]).data[0].embedding
    assert again == pytest.approx(vectors[0], abs=1e-6)
    assert found.usage.prompt_tokens == found.usage.total_tokens == 2 * len(ids) + 11
    assert client.embeddings.create(model="lora", input="Hello").data[0].embedding != vectors[0]
    assert len(client.embeddings.create(model="base", input=["x"] * 2048).data) == 2048
    for wrong in ("", ["a", ""], [], ["x"] * 2049, [[258]], "x" * 600):
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="base", input=wrong)
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="base", input="x", dimensions=4096)


# --- files ----------------------------------------------------------------------------------------


def test_files(client, live):
    for old in client.files.list():
        client.files.delete(old.id)
    made = [
        client.files.create(file=(f"{i}.jsonl", b"x" * (i + 1)), purpose="fine-tune") for i in range(3)
    ]
    kept = client.files.create(
        file=("a.txt", b"hello"), purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )  # fmt: skip
    assert kept.expires_at - kept.created_at in (3599, 3600, 3601) and kept.status == "processed"
    assert [f.id for f in client.files.list(purpose="fine-tune")] == [f.id for f in reversed(made)]
    page = client.files.list(limit=2, order="asc")
    assert [f.id for f in page.data] == [made[0].id, made[1].id] and page.has_more
    assert (page.first_id, page.last_id) == (made[0].id, made[1].id)
    assert [f.id for f in page] == [*(f.id for f in made), kept.id]
    found = client.files.retrieve(made[1].id)
    assert (found.filename, found.bytes, found.purpose) == ("1.jsonl", 2, "fine-tune")
    assert client.files.content(kept.id).content == b"hello"
    assert client.files.delete(kept.id).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(kept.id)
    for wrong in ({"purpose": "nonsense"}, {"file": ("x", b"")}):
        with pytest.raises(openai.BadRequestError):
            client.files.create(**{"file": ("a", b"a"), "purpose": "batch", **wrong})


# --- moderation -----------------------------------------------------------------------------------


def test_moderation_by_any_callable():
    from tests.engine.world import engine_of, tiny_llama
    from tests.server.conftest import serve

    def judge(text):
        return {"violence": 0.9 if "kill" in text else 0.1, "safe": 0.1}

    from rung.server.state import Settings

    settings = Settings(guarded=frozenset({"lora"}))
    served = serve(engine_of(tiny_llama(), ("lora",)), moderation=judge, settings=settings)
    try:
        with client_of(served) as client:
            found = client.moderations.create(input=["hello", "I will kill"])
            assert [r.flagged for r in found.results] == [False, True]
            assert found.results[1].categories.violence and not found.results[1].categories.hate
            assert found.results[1].category_scores.violence == pytest.approx(0.9)
            assert found.results[1].category_applied_input_types.violence == ["text"]
            bad = [{"role": "user", "content": "kill"}]
            with pytest.raises(openai.BadRequestError) as fault:
                client.chat.completions.create(model="lora", messages=bad)
            assert fault.value.code == "content_filter"
            assert client.chat.completions.create(model="base", messages=bad, max_tokens=2)
            chunks = list(
                client.chat.completions.create(model="lora", messages=HELLO, max_tokens=4, stream=True)
            )
            assert chunks[-1].choices[0].finish_reason in ("length", "stop")
    finally:
        served.stop()


def test_without_a_classifier_moderation_says_so(client):
    with pytest.raises(openai.InternalServerError) as fault:
        client.moderations.create(input="x")
    assert fault.value.status_code == 501 and "--moderation" in fault.value.message


@pytest.mark.usefixtures("jobs_in_threads")
def test_a_classifier_trained_by_a_job_moderates(rung_home, tmp_path):
    base = base_folder(tmp_path / "tiny")
    lines = [
        json.dumps({"text": f"{word} {i}", "label": label})
        for i in range(20)
        for word, label in (("kill the crowd", "violence"), ("water the plants", "safe"))
    ]
    served = open_shop(base)
    with client_of(served) as client:
        file = upload(client, "\n".join(lines).encode())
        knobs = {"hyperparameters": {"validation": 0.2}}
        job = client.fine_tuning.jobs.create(
            model="tiny", training_file=file.id, suffix="judge",
            method={"type": "linear_probe", "linear_probe": knobs},
        )  # fmt: skip
        wait(client, job)
        asked: Any = {"model": "judge", "messages": [{"role": "user", "content": "kill the crowd 3"}]}
        answer = client.chat.completions.create(**asked)
        assert answer.choices[0].message.content == "violence"
        streamed = client.chat.completions.create(**asked, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in streamed) == "violence"
        plain = client.completions.create(model="judge", prompt="kill the crowd 3", stream=True)
        assert "".join(c.choices[0].text for c in plain) == "violence"
        name = served.app.state.service.store.jobs.get(job.id).name
    served.stop()
    served = open_shop(base, moderation=name, guarded=frozenset({"tiny"}))
    with client_of(served) as client:
        with pytest.raises(openai.BadRequestError, match="moderation"):
            chat(client, model="tiny", messages=[{"role": "user", "content": "kill the crowd 4"}])
        good = [{"role": "user", "content": "water the plants 4"}]
        answer = chat(client, model="tiny", messages=good, extra_body={"trace": True})
        stages = {note["stage"]: note for note in answer.trace["stages"]}
        assert stages["moderation of the request"]["flagged"] == [False]
        assert "moderation of the answer" in stages
        found = client.moderations.create(input=["kill the crowd 4", "water the plants 4"]).results
        assert [r.flagged for r in found] == [True, False] and found[0].categories.violence
    served.stop()
