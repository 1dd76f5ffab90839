"""PEFT's side of bench/serve.py: `generate` with adapter switching behind HTTP.

    serve_peft.py JOB.json PORT

All requests that wait for the adapter that has waited longest are answered by one padded `generate`,
each token streamed as it comes. PEFT cannot hold LoRA and prompt learning in one model, nor a bare base
beside prompt learning, so each kind has a model of its own over a copy of the base.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from aiohttp import web
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer

DONE = None


@dataclass
class Waiting:
    """A request and where its tokens go."""

    model: str
    ids: list[int]
    tokens: int
    out: asyncio.Queue[int | None]


class Models:
    """Every adapter by name."""

    def __init__(self, job: dict[str, Any]):
        self.kinds: dict[str, Any] = {}
        self.of: dict[str, Any] = {}
        for name in job["serve"]:
            if name == "base":
                continue
            folder = job["adapters"][name]
            kind = PeftConfig.from_pretrained(folder).peft_type
            if kind not in self.kinds:
                base = AutoModelForCausalLM.from_pretrained(job["path"], dtype=torch.float32)
                self.kinds[kind] = PeftModel.from_pretrained(base, folder, adapter_name=name).eval()
            else:
                self.kinds[kind].load_adapter(folder, adapter_name=name)
            self.of[name] = self.kinds[kind]
        self.of["base"] = AutoModelForCausalLM.from_pretrained(job["path"], dtype=torch.float32).eval()

    def answer(self, batch: list[Waiting], streamer: BaseStreamer) -> None:
        model = self.of[batch[0].model]
        if batch[0].model != "base":
            model.set_adapter(batch[0].model)
        width = max(len(w.ids) for w in batch)
        ids = torch.tensor([[0] * (width - len(w.ids)) + w.ids for w in batch])
        mask = torch.tensor([[0] * (width - len(w.ids)) + [1] * len(w.ids) for w in batch])
        tokens = max(w.tokens for w in batch)
        with torch.inference_mode():
            model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens,
                do_sample=False, pad_token_id=0, streamer=streamer,
            )  # fmt: skip


class ToClients(BaseStreamer):
    """Hands each row's token to its request."""

    def __init__(self, batch: list[Waiting], loop: asyncio.AbstractEventLoop):
        self.batch, self.loop, self.prompt = batch, loop, True

    def put(self, value: torch.Tensor) -> None:
        if self.prompt:
            self.prompt = False
            return
        self.loop.call_soon_threadsafe(self._give, value.tolist())

    def _give(self, tokens: list[int]) -> None:
        for waiting, token in zip(self.batch, tokens, strict=True):
            waiting.out.put_nowait(token)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(lambda: [w.out.put_nowait(DONE) for w in self.batch])


class Server:
    def __init__(self, job: dict[str, Any]):
        self.models, self.lanes = Models(job), job["lanes"]
        self.tokenizer = AutoTokenizer.from_pretrained(job["path"])
        self.queue: list[Waiting] = []
        self.changed = threading.Condition()

    def work(self, loop: asyncio.AbstractEventLoop) -> None:
        """One batch after the other, on a thread of its own."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.queue)
                oldest = self.queue[0].model
                batch = [w for w in self.queue if w.model == oldest][: self.lanes]
                self.queue = [w for w in self.queue if all(w is not b for b in batch)]
            self.models.answer(batch, ToClients(batch, loop))

    async def completions(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        waiting = Waiting(asked["model"], asked["prompt"], asked["max_tokens"], asyncio.Queue())
        with self.changed:
            self.queue.append(waiting)
            self.changed.notify()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        count, text = 0, ""
        drawn: list[int] = []
        while (token := await waiting.out.get()) is not DONE:
            drawn.append(token)
            whole = self.tokenizer.decode(drawn)
            piece, text, count = whole[len(text) :], whole, count + 1
            await self._send(response, {"choices": [{"index": 0, "text": piece}]})
        await self._send(response, {"choices": [], "usage": {"completion_tokens": count}})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(self, response: web.StreamResponse, content: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(content).encode() + b"\n\n")


def main() -> None:
    server = Server(json.loads(Path(sys.argv[1]).read_text()))

    async def start(app: web.Application) -> None:
        loop = asyncio.get_running_loop()
        threading.Thread(target=server.work, args=(loop,), daemon=True).start()

    app = web.Application()
    app.router.add_post("/v1/completions", server.completions)
    app.on_startup.append(start)
    with contextlib.suppress(KeyboardInterrupt):
        web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None)


if __name__ == "__main__":
    main()
