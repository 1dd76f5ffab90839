"""Clients of an OpenAI-compatible server that ask at once, each its next question when answered.

They speak HTTP over plain asyncio sockets, since the machine that they measure is the one they run on.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

PATH = "/v1/completions"


@dataclass
class Answered:
    """One answer as its client saw it: seconds from asking to each event that brought text.

    Attributes:
        tokens: drawn, as the server says.
    """

    model: str
    times: list[float] = field(default_factory=list)
    tokens: int = 0
    text: str = ""


@dataclass
class Round:
    """What some clients saw together."""

    seconds: float
    answers: list[Answered]

    @property
    def speed(self) -> float:
        """Tokens per second of all clients together."""
        return sum(a.tokens for a in self.answers) / self.seconds

    def first(self) -> list[float]:
        """Seconds to each answer's first token."""
        return [a.times[0] for a in self.answers]

    def between(self) -> list[float]:
        """Seconds between two events of an answer; an event may bring several tokens."""
        return [b - a for one in self.answers for a, b in zip(one.times, one.times[1:], strict=False)]


def ask(
    port: int, questions: list[tuple[str, list[int]]], clients: int, tokens: int, extra: dict[str, Any]
) -> Round:
    """Have all questions answered, (model, prompt ids) each, by so many clients at once.

    Args:
        extra: of the request's body, such as vLLM's `ignore_eos`.

    Raises:
        RuntimeError: when the server refuses one, or an answer is shorter than `tokens`.
    """
    return asyncio.run(_ask(port, questions, clients, tokens, extra))


async def _ask(port, questions, clients, tokens, extra) -> Round:
    waiting, answers = iter(questions), []

    async def client() -> None:
        for model, ids in waiting:
            answers.append(await _one(port, model, ids, tokens, extra))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Round(time.perf_counter() - began, answers)


async def _one(port: int, model: str, ids: list[int], tokens: int, extra: dict[str, Any]) -> Answered:
    body = {
        "model": model, "prompt": ids, "max_tokens": tokens, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True}, **extra,
    }  # fmt: skip
    content = json.dumps(body).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    found, began = Answered(model), time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + content)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{status.decode().strip()}: {(await reader.read(2000)).decode()}")
        async for line in reader:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if event.get("usage"):
                    found.tokens = event["usage"]["completion_tokens"]
                if event.get("choices") and (text := event["choices"][0]["text"]):
                    found.times.append(time.perf_counter() - began)
                    found.text += text
            elif line.startswith(b"data: [DONE]"):
                break
    finally:
        writer.close()
    if found.tokens != tokens:
        raise RuntimeError(f"{model} answered with {found.tokens} tokens instead of {tokens}")
    return found
