"""A conversation with one model: its turns, and answers that are written as they come."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rung.data.problem import counted
from rung.errors import ConfigError

if TYPE_CHECKING:
    from rung.engine import Completion, Engine
    from rung.types import Decoding, Message, Picture


class Conversation:
    """The turns so far, and how the next answer is drawn.

    Args:
        traced: told each call of a model's tools and what it gave, as text.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        decoding: Decoding,
        system: str | None,
        traced: Callable[[str], Any] | None = None,
    ):
        self.traced = traced
        self.engine, self.decoding, self.system = engine.start(), decoding, system
        self.use_model(name)
        self.clear()

    def clear(self) -> None:
        """Forget the turns; the system message stays."""
        self.turns: list[Message] = []
        self.shown: tuple[Picture, ...] = ()
        if self.system:
            self.turns.append({"role": "system", "content": self.system})

    def show(self, path: str) -> None:
        """Show a picture with the next question.

        Raises:
            ConfigError: for a model that sees none. DataError: for what is no picture.
        """
        from rung.pictures import picture

        model = self.model
        if model.sight is None and model.template.writes:
            raise ConfigError(f"'{self.name}' sees no pictures: make a model with --method projector")
        self.shown = (*self.shown, picture(str(Path(path).expanduser()))[0])

    def use_system(self, text: str | None) -> None:
        """Begin anew with another system message, None for none."""
        self.system = text
        self.clear()

    def use_strength(self, text: str) -> None:
        """Steer by another strength, `own` for the model's. Raises ConfigError for what is none."""
        from dataclasses import replace

        from rung.config import coerce, knobs_of
        from rung.library.knobs import DecodingKnobs

        knob = next(k for k in knobs_of(DecodingKnobs) if k.name == "strength")
        try:
            value = None if text == "own" else coerce(knob, text)
        except ValueError as fault:
            raise ConfigError(f"the strength {fault}") from None
        self.decoding = replace(self.decoding, strength=value)

    def use_model(self, name: str) -> None:
        """Have another model of the engine answer. Raises ModelNotFound for an unknown name."""
        self.model = self.engine.model(name)
        self.name = name

    def save(self, path: Path) -> None:
        """Append the turns to a file of JSON lines, one row of messages.

        Raises:
            ConfigError: when there is nothing to save, or the file cannot be written.
        """
        if not any(turn["role"] == "assistant" for turn in self.turns):
            raise ConfigError("there is nothing to save yet: ask something first")
        try:
            with path.open("a", encoding="utf-8") as file:
                messages = [as_parts(turn) for turn in self.turns]
                file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
        except OSError as fault:
            raise ConfigError(f"cannot write {path}: {fault.strerror}") from None

    def ask(
        self,
        text: str,
        write: Callable[[str], Any] | None = None,
        end: Callable[[], None] = lambda: None,
    ) -> Completion:
        """Write the answer as it comes, and remember both; Ctrl-C cuts it short.

        Args:
            write: takes each piece of text; stdout by default. end: called behind the last one.

        Raises:
            RungError: when it cannot be answered; the turn is then forgotten.
        """
        from rung.engine import GenerationRequest
        from rung.engine.labels import labels_only
        from rung.engine.tool_loop import has_tools

        write = write or _to_stdout
        turn: Message = {"role": "user", "content": text}
        if self.shown:
            turn["pictures"] = self.shown
            self.shown = ()
        asked = [*self.turns, turn]
        if has_tools(self.model):
            return self._ask_with_tools(asked, write, end)
        held = labels_only(self.engine, self.name)
        request = GenerationRequest(self.name, self.model.prompt(asked), self.decoding, constraint=held)
        generation = self.engine.submit(request)
        try:
            for token in generation:
                write(token.text)
        except KeyboardInterrupt:
            generation.cancel()
        end()
        sys.stdout.write("\n")
        answer = generation.result()
        if answer.finish_reason == "length":
            count = answer.completion_tokens
            typer.echo(f"(cut after {counted(count, 'token')}: raise --max-tokens)", err=True)
        elif not answer.text.strip() and answer.finish_reason == "stop":
            typer.echo("(the answer is empty)", err=True)
        self.turns = [*asked, {"role": "assistant", "content": answer.text}]
        return answer

    def _ask_with_tools(
        self, asked: list[Message], write: Callable[[str], Any], end: Callable[[], None]
    ) -> Completion:
        """Have tools called until the model replies, and remember all of it."""
        from dataclasses import replace

        from rung.engine.tool_loop import summed, take_steps

        own = self.model.conversation.max_tokens if self.model.conversation else None
        drawn = replace(self.decoding, max_tokens=own or self.decoding.max_tokens)
        found = take_steps(self.engine, self.model, [asked], drawn)[0]
        for turn in found.turns if self.traced else ():
            self.traced(f"  {' '.join(turn['content'].split())}")  # type: ignore[misc]
        write(found.text)
        end()
        sys.stdout.write("\n")
        self.turns = [*found.now, {"role": "assistant", "content": found.text}]
        return summed(found)


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def as_parts(turn: Message) -> dict[str, Any]:
    """A turn as rows of messages have it: pictures as parts of its content, in data: URLs."""
    from rung.pictures import reading
    from rung.types import Picture, pieces

    beside = ("pictures", "picture_offsets")
    written: dict[str, Any] = {k: v for k, v in turn.items() if k not in beside}
    if turn.get("pictures"):
        written["content"] = [
            {"type": "image_url", "image_url": {"url": reading.as_url(piece)}}
            if isinstance(piece, Picture)
            else {"type": "text", "text": piece}
            for piece in pieces(turn)
        ]
    return written
