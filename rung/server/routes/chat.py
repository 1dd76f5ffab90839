"""Continue a conversation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from anyio.to_thread import run_sync
from fastapi import Request
from fastapi.responses import Response

from rung.data.call_format import made_in
from rung.data.tool_calls import CLOSE, OPEN
from rung.engine import GenerationRequest, ServedModel
from rung.engine.constraint import Constraint
from rung.engine.labels import labels_only
from rung.engine.patterns import ConstraintError
from rung.engine.tool_loop import has_tools
from rung.server import tools
from rung.server.chat_reply import ChatReply
from rung.server.chat_schema import (
    ChatRequest,
    ChoiceFormat,
    ObjectFormat,
    RegexFormat,
    SchemaFormat,
    TextFormat,
)
from rung.server.errors import ApiError, not_supported
from rung.server.generation import answer
from rung.server.logprobs import TokenLogprobs
from rung.server.pipeline import PipelineRun, begin_pipeline
from rung.server.responses import ChatCompletion, answers
from rung.server.routing import Routes
from rung.server.state import Service, account_of, service_of
from rung.server.tool_loop import looped
from rung.tools.agent import MAX_PARALLEL
from rung.tools.calls import schema
from rung.types import Message

routes = Routes("/v1/chat", scope="ask", tags=["chat"])


@routes.post("/completions", **answers(ChatCompletion))
async def chat(request: Request, asked: ChatRequest) -> Response:
    """An answer to a conversation, whole or as a stream."""
    request.state.param = "messages"
    return await continued(request, asked, ChatReply)


async def continued(request: Request, asked: ChatRequest, kind: Callable[..., ChatReply]) -> Response:
    """Continue a conversation, and reply in the words of one of the APIs that have conversations.

    Args:
        kind: makes the reply from the arguments of `Reply`.

    Raises:
        RungError: for what is refused; its `param` is that of chat completions.
    """
    service = service_of(request)
    asked.check(vocabulary_of(service, asked.model))
    model = service.engine.model(asked.model)
    run = begin_pipeline(request, asked.model, bool(asked.trace))
    *earlier, last = asked.messages  # the last one may be the assistant's, for a model to go on with
    answered = [m.text for m in earlier if m.role == "assistant"]
    await run.check([*(m.text for m in earlier if m.role != "assistant"), last.text], answered)
    model = set_template(service, model, asked)
    turns = await run_sync(turns_of, model, asked, run)
    if has_tools(model) and not asked.offered and asked.response_format is None:
        if asked.logprobs:
            raise not_supported("logprobs", f"'{asked.model}' answers after calls of its own tools")
        reply = kind(asked.model, [], asked.includes_usage, account_of(request).spend)
        reply.conversation, reply.stops = model.conversation, frozenset(model.stop_ids)
        reply.calls = model.template.calls
        return await looped(request, asked, model, turns, reply, run)
    await run_sync(run.pictures, model.sight, turns)
    prompt = await run_sync(model.prompt, turns)
    constraint = await run_sync(constraint_of, service, asked, model, turns)
    most = asked.max_completion_tokens or asked.max_tokens
    usual = model.decoding.max_tokens
    if model.conversation is not None and model.conversation.max_tokens is not None:
        own = model.conversation.max_tokens
        usual = own if has_tools(model) else max(usual, own)
    usual = max(1, min(usual, service.engine.room(asked.model, len(prompt.ids))))
    logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    wanted = GenerationRequest(asked.model, prompt, logprobs=logprobs, constraint=constraint)
    reply = kind(asked.model, [len(prompt.ids)], asked.includes_usage, account_of(request).spend)
    reply.functions = tuple(f.name for f in asked.callable)
    reply.forced, reply.legacy = bool(asked.forced), bool(asked.functions and not asked.tools)
    reply.one_call = asked.parallel_tool_calls is False
    reply.conversation, reply.stops = model.conversation, frozenset(model.stop_ids)
    reply.calls = model.template.calls
    reply.pieces = TokenLogprobs(model.template) if asked.logprobs else None
    return await answer(request, asked, [wanted], reply, run, n=asked.n or 1, most=most, usual=usual)


def set_template(service: Service, model: ServedModel, asked: ChatRequest) -> ServedModel:
    """The model with the settings of its chat template that a request gives.

    Raises:
        ApiError: naming the setting that the server's owner does not allow.
    """
    given, allowed = asked.chat_template_kwargs or {}, service.settings.template_settings
    for name in given:
        if name not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            told = f"'chat_template_kwargs.{name[:80]}' is not allowed here; allowed: {known}"
            raise ApiError(told, param="chat_template_kwargs", code="not_supported")
    if not given:
        return model
    return dataclasses.replace(model, template=dataclasses.replace(model.template, settings=given))


def turns_of(model: ServedModel, asked: ChatRequest, run: PipelineRun) -> list[Message]:
    """The conversation with what its stages add, and what may be called beside it."""
    turns = tools.conversation(asked.messages, asked.callable)
    if model.takes_context:
        turns = run.messages(turns)
    return turns


async def prompt_tokens(request: Request, asked: ChatRequest) -> int:
    """Count the tokens that a conversation would be read as, with what stages of the server add."""
    model = service_of(request).engine.model(asked.model)
    turns = await run_sync(turns_of, model, asked, begin_pipeline(request, asked.model, False))
    return len((await run_sync(model.prompt, turns)).ids)


def constraint_of(
    service: Service, asked: ChatRequest, model: ServedModel, turns: Sequence[Message]
) -> Constraint | None:
    """What the answer must look like: what the request says, else what the model's tools take.

    Raises:
        ApiError: naming `response_format` or `tools`, for what cannot be followed.
    """
    made, name = service.engine.constraint, asked.model
    form, param = asked.response_format, "response_format"
    try:
        if asked.forced:
            param = "tools"
            chosen = [f for f in asked.callable if asked.forced is True or f.name == asked.forced]
            shape = schema([f.model_dump() for f in chosen])
            if model.template.calls is None:
                return made(name, "json_schema", shape)
            seen = made_in(model.messages(turns))
            forced = {"schema": shape, "most": 1, "mode": "call", "made": seen}
            return made(name, "tool_calls", forced)
        if asked.callable:
            param = "tools"
            for function in asked.callable:  # a bad schema is told whether it is called or not
                if function.parameters:
                    made(name, "json_schema", function.parameters)
            param = "response_format"
            if form is not None and (held := _calls_or(form, asked, model, turns)) is not None:
                return made(name, "tool_calls", held)
        if isinstance(form, ObjectFormat):
            return made(name, "json_object")
        if isinstance(form, SchemaFormat):
            return made(name, "json_schema", form.json_schema.schema_)
        if isinstance(form, RegexFormat):
            return made(name, "regex", form.regex)
        if isinstance(form, ChoiceFormat):
            return made(name, "choice", form.choice)
        talk = model.conversation
        if asked.callable and talk is not None and (own := talk.grammar(turns)) is not None:
            return made(name, "tool_calls", own)
        if not asked.callable and form is None:
            return labels_only(service.engine, name)
    except ConstraintError as fault:
        raise ApiError(str(fault), param=param, code="invalid_schema") from None
    return None


def _calls_or(
    form: Any, asked: ChatRequest, model: ServedModel, turns: Sequence[Message]
) -> dict[str, Any] | None:
    """The grammar of calls, or an answer of a form in their place; None for plain text.

    Raises:
        ApiError: for a form that is not JSON.
    """
    if isinstance(form, TextFormat):
        return None
    if not isinstance(form, SchemaFormat | ObjectFormat):
        raise not_supported("response_format", "beside tools an answer is held to JSON alone")
    shape = form.json_schema.schema_ if isinstance(form, SchemaFormat) else {"type": "object"}
    return {
        "schema": schema([f.model_dump() for f in asked.callable]), "open": OPEN, "close": CLOSE,
        "most": 1 if asked.parallel_tool_calls is False else MAX_PARALLEL, "mode": "form",
        "form": shape, "made": made_in(model.messages(turns)),
    }  # fmt: skip


def vocabulary_of(service: Service, name: str) -> int:
    """Ids that a token of a model may have; those of the base for one that is not served."""
    engine = service.engine
    known = engine.models.get(name)
    return engine.bank.vocabulary if known is None else engine.registry.vocabulary_of(known.slot)
