"""langchain-openai: chat, stream, a forced tool, structured output, embeddings."""

from common import BASE, KEY, MODEL, QUESTION, TEXTS, run
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

llm = ChatOpenAI(model=MODEL, base_url=BASE, api_key=KEY, max_tokens=200, temperature=0)


class Mood(BaseModel):
    """A mood."""

    happy: bool


@tool
def weather(warm: bool) -> str:
    """Tell whether it is warm."""
    return str(warm)


def chat():
    assert llm.invoke(QUESTION).content.strip()


def stream():
    pieces = [piece.content for piece in llm.stream(QUESTION)]
    assert len(pieces) > 1 and "".join(pieces) == llm.invoke(QUESTION).content


def tools():
    (call,) = llm.bind_tools([weather], tool_choice="weather").invoke("Is it warm?").tool_calls
    assert call["name"] == "weather" and isinstance(call["args"]["warm"], bool)


def structured():
    assert isinstance(llm.with_structured_output(Mood, method="json_schema").invoke(QUESTION), Mood)


def embeddings():
    made = OpenAIEmbeddings(
        model=MODEL, base_url=BASE, api_key=KEY, check_embedding_ctx_length=False
    )  # else it counts tokens with an encoding of another model, from the net
    one, two = made.embed_documents(TEXTS)
    assert len(one) == len(two) > 1 and one != two


run({f.__name__: f for f in (chat, stream, tools, structured, embeddings)})
