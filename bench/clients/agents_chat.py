"""The OpenAI Agents SDK: chat, stream, a forced tool, structured output, by chats and by responses."""

import asyncio

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from common import BASE, KEY, MODEL, QUESTION, TEXTS, run
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)
LOOP = asyncio.Runner()  # one for all: what a client keeps open belongs to its loop


class Mood(BaseModel):
    """A mood."""

    happy: bool


@function_tool
def weather(warm: bool) -> str:
    """Tell whether it is warm."""
    return f"warm: {warm}"


def client():
    return AsyncOpenAI(base_url=BASE, api_key=KEY, max_retries=0)


def agent(kind=OpenAIChatCompletionsModel, forced=None, **settings):
    asked = ModelSettings(max_tokens=200, temperature=0, tool_choice=forced)
    made = kind(model=MODEL, openai_client=client())
    return Agent(name="rung", instructions="Be brief.", model=made, model_settings=asked, **settings)


def asked(one):
    return LOOP.run(Runner.run(one, QUESTION)).final_output


def chat():
    assert asked(agent()).strip()


def stream():
    async def kinds():
        running = Runner.run_streamed(agent(), QUESTION)
        return [event.type async for event in running.stream_events()], running.final_output

    events, said = LOOP.run(kinds())
    assert "raw_response_event" in events and said.strip()


def tools():
    made = agent(tools=[weather], tool_use_behavior="stop_on_first_tool", forced="weather")
    assert asked(made).startswith("warm: ")


def structured():
    assert isinstance(asked(agent(output_type=Mood)), Mood)


def responses():
    assert asked(agent(OpenAIResponsesModel)).strip()
    assert isinstance(asked(agent(OpenAIResponsesModel, output_type=Mood)), Mood)


def embeddings():
    made = LOOP.run(client().embeddings.create(model=MODEL, input=TEXTS))
    assert len(made.data) == 2


run({f.__name__: f for f in (chat, stream, tools, structured, responses, embeddings)})
