"""A model behind an OpenAI-compatible API.

Keys are read from the environment whenever the model is asked, and kept nowhere. What a server does
not take (log-probabilities, a temperature) is left out from then on; a value that it does not take is
the fault of whoever sent it.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from rung.errors import ConfigError, RungError, nearest
from rung.remote.model import RemoteAnswer, RemoteAnswerHandler, RemoteModel
from rung.types import Decoding, Message

RETRIES = 5  # of what a server refuses for now; the client waits longer each time, or as it is told
TOP = 20  # likeliest first tokens; no server tells more
OPTIONAL = (
    "response_format",
    "top_logprobs",
    "logprobs",
    "stream_options",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
)
# How servers say that they do not know a parameter, or not beside this model, whatever its value.
UNKNOWN_CODES = ("unsupported_parameter", "unsupported_value", "unknown_parameter", "extra_forbidden")
UNKNOWN_WORDS = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|extra|deprecated|cannot find|"
    r"not (permitted|allowed|available|enabled|accepted|implemented)",
    re.IGNORECASE,
)
FIRST_WAIT, MOST_WAIT = 0.5, 8.0  # seconds before what is refused for now is asked again


class RemoteFault(RungError):
    """A server cannot be reached, refuses, or does not answer as it should."""

    exit_code = 1
    http_status = 502


class RemoteRefusal(RemoteFault):
    """A server does not take what it was sent."""

    http_status = 400


@dataclass
class OpenAIApi(RemoteModel):
    """A model's name at an address.

    Args:
        url: such as http://localhost:8000/v1. model: what the server calls it.
        key_variable: the environment variable with the key; servers that want none get none.
        price_in, price_out: of a million tokens. timeout: seconds for one answer.
        url_flag, model_flag: what the user set address and model by, for messages.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    price_in: float = 0.0
    price_out: float = 0.0
    at_once: int = 8
    timeout: float = 120.0
    retries: int = RETRIES
    url_flag: str = "--url"
    model_flag: str = "--remote-model"
    _refused: set[str] = field(default_factory=set, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)
    _client: Any = field(default=None, repr=False)
    _key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        self.url = address(self.url, self.url_flag)

    @property
    def client(self) -> Any:
        """An `openai.OpenAI` with the key that the environment holds now."""
        from openai import OpenAI

        key = os.environ.get(self.key_variable) or "none"
        with self._lock:
            if self._client is None or key != self._key:
                self._key = key
                self._client = OpenAI(
                    base_url=self.url, api_key=key, max_retries=self.retries, timeout=self.timeout
                )
            return self._client

    def ask(
        self,
        messages: Sequence[Message],
        decoding: Decoding,
        *,
        heard: RemoteAnswerHandler | None = None,
        first: bool = False,
        schema: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> RemoteAnswer:
        body: dict[str, Any] = {
            "model": self.model, "messages": list(messages), "temperature": decoding.temperature,
            "max_tokens": decoding.max_tokens,
        }  # fmt: skip
        if decoding.top_p < 1:
            body["top_p"] = decoding.top_p
        if decoding.seed is not None:
            body["seed"] = decoding.seed % 2**63
        if decoding.stop:
            body["stop"] = list(decoding.stop)
        if decoding.presence_penalty:
            body["presence_penalty"] = decoding.presence_penalty
        if decoding.frequency_penalty:
            body["frequency_penalty"] = decoding.frequency_penalty
        if schema is not None:
            named = {"name": "answer", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        if first:
            body |= {"logprobs": True, "top_logprobs": TOP}
        if heard is not None:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        with self.faults(timeout):
            answer = self._create(body, timeout)
            return _said(answer) if heard is None else _streamed(answer, heard)

    def money(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6

    def _create(self, body: dict[str, Any], timeout: float | None) -> Any:
        """Send it, without what this server has refused before or refuses now."""
        from openai import BadRequestError, UnprocessableEntityError

        until = None if timeout is None else time.monotonic() + timeout
        while True:
            sent = {k: v for k, v in body.items() if k not in self._refused}
            if "max_tokens" in self._refused:
                sent["max_completion_tokens"] = body["max_tokens"]
            try:
                return self._tried(sent, until)
            except (BadRequestError, UnprocessableEntityError) as fault:
                named = refused(fault, sent)
                if named is None:
                    raise
                self._refused.add(named)

    def _tried(self, sent: dict[str, Any], until: float | None) -> Any:
        """Send it once, and again where it is refused for now, as long as there is time for that."""
        import openai

        if until is None:
            return self.client.chat.completions.create(**sent)
        # The client's own tries would each have all the time.
        create: Callable[..., Any] = self.client.with_options(max_retries=0).chat.completions.create
        waits = iter(min(FIRST_WAIT * 2**i, MOST_WAIT) for i in range(self.retries))
        while True:
            try:
                return create(**sent, timeout=max(0.01, until - time.monotonic()))
            except openai.APITimeoutError:
                raise
            except (
                openai.RateLimitError,
                openai.InternalServerError,
                openai.APIConnectionError,
            ) as fault:
                wait = next(waits, None)
                if wait is None or time.monotonic() + (wait := _asked_wait(fault, wait)) >= until:
                    raise
                time.sleep(wait)

    @contextmanager
    def faults(self, timeout: float | None = None) -> Iterator[None]:
        """Turn what a server or the network does wrong into one line.

        Args:
            timeout: seconds that there were for all tries; None: `self.timeout` for each.

        Raises:
            RemoteFault: saying what to do.
        """
        import openai

        where = self.url
        try:
            yield
        except openai.APITimeoutError:
            tries = f" in any of {self.retries + 1} tries" if self.retries and timeout is None else ""
            within = f"{self.timeout if timeout is None else timeout:.3g} s{tries}"
            told = f"{where} gave no answer within {within}: raise --timeout, or try later"
        except openai.APIConnectionError as fault:
            told = f"cannot reach {where} ({_cause(fault)}): check {self.url_flag} and the network"
        except (openai.AuthenticationError, openai.PermissionDeniedError) as fault:
            has = "the key in" if os.environ.get(self.key_variable) else "a request without a key: set"
            told = f"{where} refuses {has} {self.key_variable} ({_said_wrong(fault)})"
        except openai.NotFoundError as fault:
            told = self._missing(_said_wrong(fault))
        except openai.RateLimitError as fault:
            told = (
                f"{where} still limits requests after {self.retries + 1} tries "
                f"({_said_wrong(fault)}): wait, or lower --at-once"
            )
        except (openai.BadRequestError, openai.UnprocessableEntityError) as fault:
            raise RemoteRefusal(f"{where} answered {fault.status_code}: {_said_wrong(fault)}") from None
        except openai.APIStatusError as fault:
            told = f"{where} answered {fault.status_code}: {_said_wrong(fault)}"
        except (openai.OpenAIError, AttributeError, IndexError, TypeError, ValueError) as fault:
            told = f"{where} does not answer as OpenAI's API does ({fault}): check {self.url_flag}"
        else:
            return
        raise RemoteFault(told)

    def _missing(self, told: str) -> str:
        from openai import OpenAIError

        try:
            names = [m.id for m in self.client.models.list()]
        except (OpenAIError, AttributeError, TypeError, ValueError):
            flags = " and ".join(dict.fromkeys((self.url_flag, self.model_flag)))
            return f"{self.url} has nothing there ({told}): check {flags}"
        if self.model in names:
            return f"{self.url} cannot do this with '{self.model}' ({told})"
        return f"{self.url} has no model '{self.model}'{nearest(self.model, names)}"


def address(url: str, flag: str = "--url") -> str:
    """An API's address as clients want it: with /v1 where only a host is given.

    Args:
        flag: what the user set it by.

    Raises:
        ConfigError: for what is no address, or one that holds a password.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{flag} '{url}' must be an address such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            f"{flag} holds a name, a password or a query: put the key into the environment"
        )
    return url.rstrip("/") if parts.path.strip("/") else f"{url.rstrip('/')}/v1"


def refused(fault: Any, sent: dict[str, Any]) -> str | None:
    """The optional parameter that a server does not take at all, of those that were sent.

    None where a refusal is about a value, or about the messages: others may send better ones.
    """
    known = [name for name in (*OPTIONAL, "max_tokens") if name in sent]
    for code, text, param in _complaints(fault):
        if code in UNKNOWN_CODES or UNKNOWN_WORDS.search(text):
            named = [n for n in known if n == param or re.search(rf"\b{n}\b", text)]
            if named:
                return named[0] if param not in named else param
    return None


def _complaints(fault: Any) -> list[tuple[str, str, str | None]]:
    """(code, words, parameter) of what a refusal complains of, not what it repeats of the request."""
    body = getattr(fault, "body", None)
    detail = body.get("detail") if isinstance(body, dict) else None
    if isinstance(detail, list):  # FastAPI's
        return [
            (str(one.get("type")), str(one.get("msg")), str((one.get("loc") or [None])[-1]))
            for one in detail
            if isinstance(one, dict)
        ]
    return [(str(getattr(fault, "code", None)), _said_wrong(fault), getattr(fault, "param", None))]


def _asked_wait(fault: Any, otherwise: float) -> float:
    """Seconds after which a server wants to be asked again."""
    headers = getattr(getattr(fault, "response", None), "headers", {})
    try:
        if "retry-after-ms" in headers:
            return float(headers["retry-after-ms"]) / 1000
        return float(headers["retry-after"])
    except (KeyError, ValueError):
        return otherwise


def _said(answer: Any) -> RemoteAnswer:
    choice, usage = answer.choices[0], answer.usage
    return RemoteAnswer(
        choice.message.content or "",
        "length" if choice.finish_reason == "length" else "stop",
        usage.prompt_tokens if usage else 0,
        usage.completion_tokens if usage else 0,
        _first(choice),
    )


def _first(choice: Any) -> dict[str, float]:
    told = getattr(choice, "logprobs", None)
    if not told or not told.content:
        return {}
    found: dict[str, float] = {}
    for one in [*told.content[0].top_logprobs, told.content[0]]:
        found.setdefault(one.token, float(one.logprob))
    return found


def _streamed(chunks: Any, heard: RemoteAnswerHandler) -> RemoteAnswer:
    text, end, usage = [], "stop", None
    with chunks:
        for chunk in chunks:
            usage = chunk.usage or usage
            for choice in chunk.choices[:1]:
                end = choice.finish_reason or end
                piece = choice.delta.content or ""
                text.append(piece)
                if piece and not heard(piece):
                    return RemoteAnswer("".join(text))
    counts = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    return RemoteAnswer("".join(text), "length" if end == "length" else "stop", *counts)


def _said_wrong(fault: Any) -> str:
    """The server's own words, without the client's around them."""
    body = getattr(fault, "body", None)
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or getattr(fault, "message", fault)).strip().rstrip(".")[:300]


def _cause(fault: BaseException) -> str:
    while fault.__cause__ is not None:
        fault = fault.__cause__
    return str(fault) or type(fault).__name__
