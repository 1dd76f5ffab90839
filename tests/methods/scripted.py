"""A server that answers as it is told to, for what real ones seldom do on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

Answer = tuple[int, Any]  # status, and a body: JSON, or text as it is
Script = Callable[[str, dict[str, Any]], Answer]


@contextmanager
def scripted(script: Script) -> Iterator[SimpleNamespace]:
    """A live server; `.asked` gathers (path, body, headers)."""
    asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                body = json.loads(sent or b"{}")
            except ValueError:  # telemetry of some clients is no JSON
                body = {}
            asked.append((self.path, body, dict(self.headers)))
            status, content = script(self.path, body)
            data = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            kind = "text/html" if isinstance(content, str) else "application/json"
            for name, value in (("Content-Type", kind), ("Content-Length", len(data))):
                self.send_header(name, str(value))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", asked=asked)
    finally:
        server.shutdown()
        server.server_close()


def chat(text: str, tokens: dict[str, float] | None = None, **usage: int) -> Answer:
    """A chat completion, with the likeliest first tokens where they are given."""
    top = [{"token": t, "logprob": v, "bytes": None} for t, v in (tokens or {}).items()]
    first = {"content": [{**top[0], "top_logprobs": top}]} if top else None
    choice = {
        "index": 0, "finish_reason": "stop", "logprobs": first,
        "message": {"role": "assistant", "content": text},
    }  # fmt: skip
    counts = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12, **usage}
    return 200, {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice],
        "usage": counts,
    }  # fmt: skip


def fault(status: int, message: str, param: str | None = None) -> Answer:
    return status, {"error": {"message": message, "type": "x", "param": param, "code": None}}
