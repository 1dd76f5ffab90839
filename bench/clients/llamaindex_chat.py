"""llama-index with its OpenAI-like model: chat, stream, tools, structured output, embeddings."""

from common import BASE, KEY, MODEL, QUESTION, TEXTS, run
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

llm = OpenAILike(
    model=MODEL, api_base=BASE, api_key=KEY, is_chat_model=True, is_function_calling_model=True,
    max_tokens=200, temperature=0, context_window=2048, max_retries=0,
)  # fmt: skip
TURN = [ChatMessage(role="user", content=QUESTION)]


class Mood(BaseModel):
    """A mood."""

    happy: bool


def weather(warm: bool) -> str:
    """Tell whether it is warm."""
    return str(warm)


def chat():
    assert llm.chat(TURN).message.content.strip()


def stream():
    pieces = [piece.delta for piece in llm.stream_chat(TURN)]
    assert len(pieces) > 1 and "".join(p or "" for p in pieces).strip()


def tools():
    asked = llm.chat_with_tools([FunctionTool.from_defaults(weather)], "Warm?", tool_required=True)
    (call,) = llm.get_tool_calls_from_response(asked)
    assert call.tool_name == "weather" and isinstance(call.tool_kwargs["warm"], bool)


def structured():
    assert isinstance(llm.as_structured_llm(Mood).chat(TURN).raw, Mood)


def embeddings():
    made = OpenAILikeEmbedding(model_name=MODEL, api_base=BASE, api_key=KEY)
    one, two = made.get_text_embedding_batch(TEXTS)
    assert len(one) == len(two) > 1 and one != two


run({f.__name__: f for f in (chat, stream, tools, structured, embeddings)})
