"""instructor: chat, stream of a part, a forced tool, structured output by schema, embeddings."""

import instructor
from common import BASE, KEY, MODEL, QUESTION, TEXTS, run
from openai import OpenAI
from pydantic import BaseModel

plain = OpenAI(base_url=BASE, api_key=KEY, max_retries=0)
TURN = [{"role": "user", "content": QUESTION}]
ASKED = {"model": MODEL, "messages": TURN, "max_tokens": 200, "temperature": 0, "max_retries": 0}


class Mood(BaseModel):
    """A mood."""

    happy: bool


def by(mode):
    return instructor.from_openai(plain, mode=mode).chat.completions


def chat():
    said = plain.chat.completions.create(model=MODEL, messages=TURN, max_tokens=20)
    assert said.choices[0].message.content.strip()


def stream():
    parts = list(by(instructor.Mode.JSON_SCHEMA).create_partial(response_model=Mood, **ASKED))
    assert isinstance(parts[-1].happy, bool)


def tools():
    assert isinstance(by(instructor.Mode.TOOLS).create(response_model=Mood, **ASKED), Mood)


def structured():
    assert isinstance(by(instructor.Mode.JSON_SCHEMA).create(response_model=Mood, **ASKED), Mood)


def embeddings():
    one, two = plain.embeddings.create(model=MODEL, input=TEXTS).data
    assert len(one.embedding) == len(two.embedding) > 1


run({f.__name__: f for f in (chat, stream, tools, structured, embeddings)})
