"""Two models side by side: one question, both answers as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from nicegui import ui

from rung.errors import RungError
from rung.server.page.session import Visit, told

PAUSE = 0.06  # seconds between two updates of an answer that is being written
ENTER = "(e) => { if (!e.shiftKey && !e.isComposing) { e.preventDefault(); emit(); } }"


@dataclass
class Settings:
    """What both models are asked with."""

    system: str = ""
    temperature: float | None = None
    max_tokens: float | None = 256

    def body(self) -> dict[str, Any]:
        """As parameters of a chat completion; what is empty is left to the model."""
        said: dict[str, Any] = {}
        if self.temperature is not None:
            said["temperature"] = self.temperature
        if self.max_tokens:
            said["max_tokens"] = int(self.max_tokens)
        return said


@dataclass
class Side:
    """One of the two conversations."""

    visit: Visit
    place: str
    messages: list[dict[str, str]] = field(default_factory=list)
    task: asyncio.Task | None = None

    def build(self) -> None:
        with ui.column().classes("side").props(f'role=region aria-label="{self.place} model"'):
            self.model = ui.select([], label=f"{self.place} model").props(
                "outlined dense options-dense"
            )
            self.model.on_value_change(self.clear)
            self.log = (
                ui.column()
                .classes("log")
                .props(f'role=log aria-live=polite tabindex=0 aria-label="{self.place} conversation"')
            )

    def clear(self) -> None:
        """Begin a conversation anew."""
        self.stop()
        self.messages.clear()
        self.log.clear()

    def stop(self) -> None:
        """Leave off answering; what was said so far stays."""
        if self.task is not None:
            self.task.cancel()

    def ask(self, question: str, settings: Settings) -> None:
        """Put a question and begin to show the answer."""
        with self.log:
            ui.label(question).classes("said asked")
            answer = ui.label("").classes("said answered")
            note = ui.label("…").classes("faint note")
        self.messages.append({"role": "user", "content": question})
        system = [{"role": "system", "content": settings.system}] if settings.system.strip() else []
        body = {"model": self.model.value, "messages": [*system, *self.messages], **settings.body()}
        self.task = asyncio.create_task(self._answer(body, answer, note))

    async def _answer(self, body: dict[str, Any], answer: ui.label, note: ui.label) -> None:
        heard = Heard()
        try:
            body["stream_options"] = {"include_usage": True}
            async with aclosing(self.visit.api.stream("/v1/chat/completions", body)) as events:
                async for event in events:
                    if heard.take(event):
                        answer.text = heard.text
                        self._follow()
            note.text = heard.summary()
        except asyncio.CancelledError:
            note.text = "stopped"
        except RungError as fault:
            note.text = str(fault)
            note.classes("bad").props("role=alert")
        answer.text = heard.text
        if heard.text:
            self.messages.append({"role": "assistant", "content": heard.text})
        else:
            self.messages.pop()
        self._follow()

    def _follow(self) -> None:
        """Keep the end of the conversation in sight."""
        self.log.run_method("scrollTo", 0, 1_000_000)


@dataclass
class Heard:
    """An answer as far as it has come."""

    text: str = ""
    reason: str = ""
    tokens: int = 0
    began: float = field(default_factory=time.perf_counter)
    first: float | None = None
    shown: float = 0.0

    def take(self, event: dict[str, Any]) -> bool:
        """Add an event; whether it is time to show what there is."""
        for choice in event.get("choices", ()):
            piece = choice["delta"].get("content")
            if piece:
                self.first = self.first or time.perf_counter()
                self.text += piece
            self.reason = choice.get("finish_reason") or self.reason
        if event.get("usage"):
            self.tokens = event["usage"]["completion_tokens"]
        now = time.perf_counter()
        if now - self.shown < PAUSE:
            return False
        self.shown = now
        return True

    def summary(self) -> str:
        """Tokens, speed, and why it ended where that is not of its own accord."""
        now = time.perf_counter()
        first = (self.first or now) - self.began
        rest = now - self.began - first
        parts = [f"{self.tokens} tokens", f"first after {first * 1000:.0f} ms"]
        if self.tokens > 1 and rest > 0:
            parts.append(f"{(self.tokens - 1) / rest:.0f} tokens/s")
        if self.reason == "length":
            parts.append("cut at the length allowed")
        return " · ".join(parts)


def build(visit: Visit) -> Callable[[], Awaitable[None]]:
    """The part of the page; gives back what brings its list of models up to date."""
    settings, sides = Settings(), [Side(visit, "Left"), Side(visit, "Right")]
    with ui.element("div").classes("sides"):
        for side in sides:
            side.build()
    with ui.column().classes("ask").props("role=form"):
        text = ui.textarea("Message to both").props("outlined autogrow autofocus dense").classes("wide")
        with ui.row().classes("buttons"):
            send = ui.button("Send", icon="send")
            stop = ui.button("Stop", icon="stop").props("outline")
            fresh = ui.button("New chat", icon="add_comment").props("flat")
            both = ui.switch("Two models", value=True)
            ui.label("Enter sends, Shift+Enter makes a line, Escape stops").classes("faint hint")
        with ui.expansion("Settings", icon="tune").classes("wide"), ui.row().classes("fields"):
            ui.textarea("System message").bind_value(settings, "system").props(
                "outlined dense autogrow"
            )
            ui.number("Temperature", min=0, max=2, step=0.1, placeholder="the model's own").bind_value(
                settings, "temperature"
            ).props("outlined dense clearable stack-label")
            ui.number("Tokens at most", min=1, max=8192, precision=0).bind_value(
                settings, "max_tokens"
            ).props("outlined dense")

    async def ask() -> None:
        question = (text.value or "").strip()
        asked = sides if both.value else sides[:1]
        if not question or any(s.task and not s.task.done() for s in asked):
            return
        async with told():
            await visit.admit("ask")
            text.value = ""
            for side in asked:
                side.ask(question, settings)

    def stop_all() -> None:
        for side in sides:
            side.stop()

    def clear_all() -> None:
        for side in sides:
            side.clear()
        text.run_method("focus")

    send.on_click(ask)
    stop.on_click(stop_all)
    fresh.on_click(clear_all)
    text.on("keydown.enter", ask, js_handler=ENTER)
    ui.on("escape", stop_all)
    ui.run_javascript("addEventListener('keydown', e => e.key === 'Escape' && emitEvent('escape'))")
    ui.context.client.on_delete(stop_all)

    async def refresh() -> None:
        async with told():
            listed = (await visit.api.get("/v1/models"))["data"]
            _offer(visit, sides, listed)
            sides[1].log.parent_slot.parent.set_visibility(both.value)  # type: ignore[union-attr]

    both.on_value_change(refresh)
    return refresh


def _offer(visit: Visit, sides: list[Side], listed: list[dict[str, Any]]) -> None:
    """Give both sides the models there are: the base left, what was made last on the right."""
    names = [m["id"] for m in listed if ":ckpt-step-" not in m["id"]]
    made = [m for m in listed if "root" in m and m["id"] in names]
    usual = [
        next((m["id"] for m in listed if "root" not in m), names[0]),
        max(made, key=lambda m: (m["created"], ":" not in m["id"]))["id"] if made else names[0],
    ]
    wanted = visit.chosen.pop("Chat", None)
    for side, first in zip(sides, usual, strict=True):
        keep = side.model.value if side.model.value in names else first
        if wanted in names and side is sides[1]:
            keep = wanted
        side.model.set_options(names, value=keep)
