"""Two models side by side: one question, both answers as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from anyio.to_thread import run_sync
from nicegui import ui

from rung.errors import RungError
from rung.server.page.session import Visit, told

PAUSE = 0.06  # seconds between two updates of an answer that is being written
TELL = 0.5  # seconds between two looks at what happens before the first token
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
    """One of the two conversations. `changed` is called when an answer begins or ends."""

    visit: Visit
    place: str
    changed: Callable[[], None]
    messages: list[dict[str, str]] = field(default_factory=list)
    task: asyncio.Task | None = None

    def build(self) -> None:
        self.column = ui.column().classes("side")
        with self.column.props(f'role=region aria-label="{self.place} model"'):
            self.model = ui.select([], label=f"{self.place} model").props(
                "outlined dense options-dense"
            )
            self.model.on_value_change(self.clear)
            self.model.on_value_change(self.show_strength)
            self.strength = Strength(self.place)
            self.log = (
                ui.column()
                .classes("log")
                .props(f'role=log aria-live=polite tabindex=0 aria-label="{self.place} conversation"')
            )

    async def show_strength(self) -> None:
        """Offer a strength where the model that was picked is steered."""
        async with told():
            name, registry = self.model.value, self.visit.service.engine.registry
            own = None if name is None else await run_sync(registry.strength, name)
            if self.model.value == name:  # else another was picked meanwhile
                self.strength.show(own)

    @property
    def answering(self) -> bool:
        """Whether an answer is being drawn or waited for."""
        return self.task is not None and not self.task.done()

    @property
    def begun(self) -> bool:
        """Whether there is anything to clear away, if only a question with an empty answer."""
        return bool(self.log.default_slot.children)

    def clear(self) -> None:
        """Begin a conversation anew; what is left of an answer goes with the old one."""
        self.stop()
        self.task, self.messages = None, []
        self.log.clear()
        self.changed()

    def stop(self) -> None:
        """Leave off answering; what was said so far stays."""
        if self.task is not None:
            self.task.cancel()

    def ask(self, question: str, settings: Settings) -> None:
        """Put a question and begin to show the answer."""
        with self.log:
            ui.label(question).classes("said asked")
            ui.label(self.model.value).classes("faint speaker")
            answer = ui.label("").classes("said answered")
            note = ui.label("").classes("faint note")
        self.messages.append({"role": "user", "content": question})
        system = [{"role": "system", "content": settings.system}] if settings.system.strip() else []
        body = {
            "model": self.model.value, "messages": [*system, *self.messages], **settings.body(),
            **self.strength.body(),
        }  # fmt: skip
        self.task = asyncio.create_task(self._answer(body, self.messages, answer, note))
        self.task.add_done_callback(lambda _: self.changed())

    async def _answer(self, body: dict[str, Any], messages: list[dict[str, str]],
                      answer: ui.label, note: ui.label) -> None:  # fmt: skip
        """Show an answer as it comes, and add it to the conversation that asked for it."""
        heard = Heard()
        waiting = asyncio.create_task(self._tell(heard, note))
        try:
            body["stream_options"] = {"include_usage": True}
            async with aclosing(self.visit.api.stream("/v1/chat/completions", body)) as events:
                async for event in events:
                    if heard.take(event):
                        answer.text = heard.text
                        self._follow()
            note.text = heard.summary()
        except asyncio.CancelledError:
            if note.is_deleted:  # cleared away, with the conversation it stood in
                return
            note.text = "stopped"
        except RungError as fault:
            note.text = str(fault)
            note.classes("bad").props("role=alert")
        finally:
            waiting.cancel()
            if not note.is_deleted:
                note.classes(remove="busy")
        answer.text = heard.text
        if heard.text:
            messages.append({"role": "assistant", "content": heard.text})
        else:
            messages.pop()
        self._follow()

    async def _tell(self, heard: Heard, note: ui.label) -> None:
        """Say what happens until there is something to read, and then that more is to come."""
        note.classes("busy")
        scheduler = self.visit.service.engine.scheduler
        while heard.first is None:
            seconds = time.perf_counter() - heard.began
            doing = "waiting for a free place" if len(scheduler.waiting) else "reading the question"
            note.text = f"{doing} · {seconds:.0f} s" if seconds >= 1 else doing
            await asyncio.sleep(TELL)
        note.text = "writing"

    def _follow(self) -> None:
        """Keep the end of the conversation in sight."""
        self.log.run_method("scrollTo", 0, 1_000_000)


class Strength:
    """The slider of a steered model: how much its vectors add, from their reverse to twice its own."""

    def __init__(self, place: str):
        self.own: float | None = None
        with ui.row().classes("strength") as self.row:
            self.label = ui.label("").classes("faint")
            self.slider = ui.slider(min=-2, max=2, step=0.1, value=0).props(
                f'label aria-label="Strength of the {place.lower()} model"'
            )
            self.slider.on_value_change(self._tell)
        self.show(None)

    def show(self, own: float | None) -> None:
        """Begin at a model's own strength; None hides the slider."""
        self.own = own
        self.row.set_visibility(own is not None)
        if own is not None:
            reach = 2 * max(1.0, abs(own))
            self.slider.props(f"min={-reach:g} max={reach:g}")
            self.slider.value = own
            self._tell()

    def body(self) -> dict[str, Any]:
        """As a parameter of a chat completion; nothing where the model answers as it is."""
        moved = self.own is not None and self.slider.value != self.own
        return {"strength": float(self.slider.value)} if moved else {}

    def _tell(self) -> None:
        said = "its own" if self.slider.value == self.own else f"its own is {self.own or 0:g}"
        self.label.text = f"Strength {self.slider.value:g} ({said})"


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
    composer = Composer(visit)
    composer.connect()
    return composer.refresh


class Composer:
    """The box that questions are written in, its buttons, and the conversations above it."""

    def __init__(self, visit: Visit):
        self.visit, self.settings = visit, Settings()
        self._made = False  # whether there is a model to compare the base with
        self._listing = asyncio.Lock()  # held while the models are looked up
        self.sides = [Side(visit, place, self.enable) for place in ("Left", "Right")]
        with ui.element("div").classes("sides chats"):
            for side in self.sides:
                side.build()
        with ui.column().classes("ask").props("role=form"):
            self.text = ui.textarea("Message").props("outlined autogrow autofocus dense")
            self.text.classes("wide")
            with ui.row().classes("buttons"):
                self.send = ui.button("Send", icon="send")
                self.stop = ui.button("Stop", icon="stop").props("outline")
                self.fresh = ui.button("New chat", icon="add_comment").props("flat")
                self.both = ui.switch("Two models", value=False)
                ui.label("Enter sends, Shift+Enter makes a line, Escape stops").classes("faint hint")
            with ui.expansion("Settings", icon="tune").classes("wide"):
                _settings(self.settings)
        self.enable()

    def connect(self) -> None:
        """Let the buttons and keys do what they say."""
        self.send.on_click(self.ask)
        self.stop.on_click(self.stop_all)
        self.fresh.on_click(self.clear_all)
        self.text.on("keydown.enter", self.ask, js_handler=ENTER)
        self.text.on_value_change(self.enable)
        ui.on("escape", self.stop_all)
        ui.run_javascript("addEventListener('keydown', e => e.key === 'Escape' && emitEvent('escape'))")
        ui.context.client.on_delete(self.stop_all)
        self.both.on_value_change(self.enable)

    @property
    def asked(self) -> list[Side]:
        """The sides that a question goes to."""
        return self.sides if self.both.value else self.sides[:1]

    def enable(self) -> None:
        """Turn off what would do nothing now."""
        if not hasattr(self, "both") or self.both.is_deleted:  # still being built, or gone
            return
        answering = any(side.answering for side in self.sides)
        self.send.set_enabled(bool((self.text.value or "").strip()) and not answering)
        self.stop.set_enabled(answering)
        self.fresh.set_enabled(any(side.begun for side in self.sides))
        self.sides[1].column.set_visibility(self.both.value)

    async def ask(self) -> None:
        """Put what is written to the models that are asked."""
        # A question that is put while the models are looked up goes to those that are then chosen:
        # choosing one begins its conversation anew, and would throw away what was asked before.
        async with told(), self._listing:
            question = (self.text.value or "").strip()
            if not question or any(side.answering for side in self.asked):
                return
            await self.visit.admit("ask")
            self.text.value = ""
            for side in self.asked:
                side.ask(question, self.settings)
            self.enable()

    def stop_all(self) -> None:
        """Leave off answering."""
        for side in self.sides:
            side.stop()

    def clear_all(self) -> None:
        """Begin both conversations anew."""
        for side in self.sides:
            side.clear()
        self.text.run_method("focus")

    async def refresh(self) -> None:
        """Bring the list of models up to date; the base is compared with what is made of it."""
        async with told(), self._listing:
            listed = (await self.visit.api.get("/v1/models"))["data"]
            wanted = self.visit.chosen.get("Chat")
            made = any("root" in m for m in listed)
            if made and not self._made and not self.visit.narrow:
                self.both.value = True
            self._made = made
            _offer(self.visit, self.sides, listed)
            if wanted and not self.both.value:  # who comes for a model sees it
                self.sides[0].model.value = self.sides[1].model.value
            self.enable()


def _settings(settings: Settings) -> None:
    with ui.row().classes("fields"):
        ui.textarea("System message").bind_value(settings, "system").props("outlined dense autogrow")
        ui.number("Temperature", min=0, max=2, step=0.1, placeholder="the model's own").bind_value(
            settings, "temperature"
        ).props("outlined dense clearable stack-label")
        ui.number("Tokens at most", min=1, max=8192, precision=0).bind_value(
            settings, "max_tokens"
        ).props("outlined dense")


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
