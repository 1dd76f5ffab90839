"""litellm: chat, stream, a forced tool, structured output, embeddings; the Messages API too."""

import json

import litellm
from common import BASE, KEY, MODEL, QUESTION, TEXTS, URL, run
from pydantic import BaseModel

ASKED = {
    "model": f"openai/{MODEL}", "api_base": BASE, "api_key": KEY, "max_tokens": 200, "temperature": 0,
    "messages": [{"role": "user", "content": QUESTION}], "num_retries": 0,
}  # fmt: skip
SCHEMA = {"type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"],
          "additionalProperties": False}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}


class Mood(BaseModel):
    """A mood."""

    happy: bool


def chat():
    assert litellm.completion(**ASKED).choices[0].message.content.strip()


def stream():
    pieces = [
        chunk.choices[0].delta.content or "" for chunk in litellm.completion(**ASKED, stream=True)
    ]
    assert len(pieces) > 1 and "".join(pieces).strip()


def tools():
    choice = {"type": "function", "function": {"name": "weather"}}
    made = litellm.completion(**ASKED, tools=[TOOL], tool_choice=choice)
    (call,) = made.choices[0].message.tool_calls
    assert isinstance(json.loads(call.function.arguments)["warm"], bool)


def structured():
    made = litellm.completion(**ASKED, response_format=Mood)
    Mood.model_validate_json(made.choices[0].message.content)


def embeddings():
    made = litellm.embedding(model=f"openai/{MODEL}", input=TEXTS, api_base=BASE, api_key=KEY)
    assert len(made.data) == 2 and len(made.data[0]["embedding"]) > 1


def messages():
    other = ASKED | {"model": f"anthropic/{MODEL}", "api_base": URL}
    assert litellm.completion(**other).choices[0].message.content.strip()


run({f.__name__: f for f in (chat, stream, tools, structured, embeddings, messages)})
