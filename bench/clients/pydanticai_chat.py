"""pydantic-ai: chat, stream, output by a tool and by a schema, embeddings; the Responses API too."""

import asyncio

from common import BASE, KEY, MODEL, QUESTION, TEXTS, run
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

SETTINGS = {"max_tokens": 200, "temperature": 0}


class Mood(BaseModel):
    """A mood."""

    happy: bool


def provider():
    return OpenAIProvider(openai_client=AsyncOpenAI(base_url=BASE, api_key=KEY, max_retries=0))


def agent(kind=OpenAIChatModel, **settings):
    return Agent(kind(MODEL, provider=provider()), model_settings=SETTINGS, **settings)


def chat():
    assert asyncio.run(agent().run(QUESTION)).output.strip()


def stream():
    async def pieces():
        async with agent().run_stream(QUESTION) as answer:
            return [piece async for piece in answer.stream_text(delta=True)]

    assert "".join(asyncio.run(pieces())).strip()


def tools():
    made = asyncio.run(agent(output_type=ToolOutput(Mood)).run(QUESTION))
    assert isinstance(made.output, Mood)


def structured():
    made = asyncio.run(agent(output_type=NativeOutput(Mood)).run(QUESTION))
    assert isinstance(made.output, Mood)


def responses():
    assert asyncio.run(agent(OpenAIResponsesModel).run(QUESTION)).output.strip()


def embeddings():
    from pydantic_ai import Embedder
    from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel

    made = asyncio.run(
        Embedder(OpenAIEmbeddingModel(MODEL, provider=provider())).embed_documents(TEXTS)
    )
    assert len(made.embeddings) == 2


run({f.__name__: f for f in (chat, stream, tools, structured, responses, embeddings)})
