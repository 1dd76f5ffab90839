"""`rung chat` in a terminal: commands, several lines, history, words that do not break."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from rung import home
from rung.errors import ConfigError, RungError, nearest

if TYPE_CHECKING:
    from rung.cli.conversation import Conversation

HINT = "Enter sends, Alt-Enter begins a new line, Ctrl-C stops an answer. /help lists the commands."
MAX_PERIOD = 120  # characters of a passage that is looked for again
MIN_REPEATS = 4  # of a passage in a row before an answer counts as going in circles
CIRCLES = (
    "(the answer repeats itself, as a base without instruction tuning often does: "
    "try --temperature 0.8, or a tuned model)"
)


@dataclass(frozen=True)
class Command:
    """One `/name` of the terminal: what it takes and what it does with the conversation."""

    help: str
    run: Callable[[Conversation, str], str | None]


def converse(talk: Conversation, read: Callable[[], str] | None = None) -> None:
    """Read what the user writes and answer it, until /exit or the end of input.

    Args:
        read: gives one message, raises EOFError at the end; by default the terminal's editor.
    """
    read = read or _editor()
    typer.echo(HINT, err=True)
    while True:
        try:
            text = read().strip()
        except EOFError:
            typer.echo("", err=True)
            return
        except KeyboardInterrupt:  # forgets the line, as shells do
            continue
        if text in ("/exit", "/quit"):
            return
        if text:
            _turn(talk, text)


def _turn(talk: Conversation, text: str) -> None:
    try:
        if text.startswith("/"):
            said = command(talk, text)
            if said:
                typer.echo(said, err=True)
            return
        answer(talk, text)
    except RungError as fault:
        typer.echo(f"rung: {fault}", err=True)


def answer(talk: Conversation, text: str) -> None:
    """Show the model's name in colour, its answer wrapped between words, and how fast it came."""
    typer.echo(typer.style(f"{talk.name}: ", fg="green", bold=True), nl=False, err=True)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    writer = Wrapped(sys.stdout.write, width, len(talk.name) + 2)
    began = time.perf_counter()
    completion = talk.ask(text, writer.write, writer.end)
    seconds = time.perf_counter() - began
    if completion.completion_tokens > 1 and sys.stderr.isatty():
        speed = completion.completion_tokens / seconds
        note = f"({completion.completion_tokens} tokens, {speed:.0f} a second)"
        typer.echo(typer.style(note, dim=True), err=True)
    if goes_in_circles(completion.text):
        typer.echo(CIRCLES, err=True)


class Wrapped:
    """Writes text as it comes, with line breaks between words where a line would be too long.

    Args:
        write: takes text. width: columns; None never breaks. column: where the first line begins.
    """

    def __init__(self, write: Callable[[str], Any], width: int | None, column: int = 0):
        self._write, self.width, self.column = write, width, column
        self._word = ""  # begun, but not yet ended by a blank

    def write(self, text: str) -> None:
        """Take the next piece of text; a word is held until its end is known."""
        if self.width is None:
            self._out(text)
            return
        for character in text:
            if character.isspace():
                self._flush()
                self._blank(character)
            else:
                self._word += character
                if len(self._word) >= self.width:  # longer than any line: it has to break
                    self._flush()
        sys.stdout.flush()

    def end(self) -> None:
        """Write what is held."""
        self._flush()

    def _flush(self) -> None:
        if self._word:
            too_long = self.width is not None and self.column + _columns(self._word) > self.width
            if too_long and self.column:
                self._out("\n")
                self.column = 0
            self._out(self._word)
            self.column += _columns(self._word)
            self._word = ""

    def _blank(self, character: str) -> None:
        if character == "\n":
            self.column = 0
        elif self.width is not None and self.column + 1 >= self.width:
            character, self.column = "\n", 0
        else:
            self.column += 1
        self._out(character)

    def _out(self, text: str) -> None:
        self._write(text)
        if self.width is None:
            sys.stdout.flush()


def _columns(word: str) -> int:
    """Columns that a word takes: some letters take two, marks above a letter none."""
    from prompt_toolkit.utils import get_cwidth

    return get_cwidth(word)


def goes_in_circles(text: str) -> bool:
    """Whether a text ends in the same passage at least `MIN_REPEATS` times in a row."""
    for period in range(2, min(MAX_PERIOD, len(text) // MIN_REPEATS) + 1):
        passage = text[-period:]
        if passage.strip() and text.endswith(passage * MIN_REPEATS):
            return len(set(passage)) > 1 or period * MIN_REPEATS >= 8
    return False


# --- commands -------------------------------------------------------------------------------------


def command(talk: Conversation, text: str) -> str | None:
    """Run a line that begins with a slash; what it has to say, if anything.

    Raises:
        ConfigError: for an unknown command, with the nearest.
    """
    name, _, rest = text[1:].partition(" ")
    if name not in COMMANDS:
        raise ConfigError(f"no command /{name}{nearest(name, ('exit', *COMMANDS))}; /help lists them")
    return COMMANDS[name].run(talk, rest.strip())


def _help(_: Conversation, __: str) -> str:
    rows = [("/exit", "end; so does Ctrl-D"), *((f"/{n}", c.help) for n, c in COMMANDS.items())]
    width = max(len(name) for name, _ in rows)
    return "\n".join([*(f"  {name:<{width}}  {help}" for name, help in rows), HINT])


def _clear(talk: Conversation, _: str) -> str:
    talk.clear()
    return "The conversation is forgotten; the system message stays."


def _system(talk: Conversation, text: str) -> str:
    if not text:
        return f"The system message is: {talk.system or 'none'}"
    talk.use_system(None if text == "none" else text)
    return "The conversation begins anew with that system message."


def _model(talk: Conversation, name: str) -> str:
    if not name:
        return "There are " + ", ".join(talk.engine.models) + f"; this is {talk.name}."
    talk.use_model(name)
    return f"{talk.name} answers from here on; the conversation goes on."


def _strength(talk: Conversation, text: str) -> str:
    if not text:
        said = talk.decoding.strength
        return "The strength is " + ("the model's own." if said is None else f"{said:g}.")
    talk.use_strength(text)
    return "Answers have that strength from here on."


def _save(talk: Conversation, name: str) -> str:
    if not name:
        raise ConfigError("/save takes the name of a file, such as /save talk.jsonl")
    path = Path(name).expanduser()
    talk.save(path)
    return f"Saved to {path}: one row of messages, as rung data reads them."


def _picture(talk: Conversation, rest: str) -> str | None:
    if not rest:
        raise ConfigError("name the picture: /picture FILE")
    talk.show(rest)
    return None


COMMANDS = {
    "help": Command("list the commands", _help),
    "clear": Command("forget the conversation", _clear),
    "system": Command("TEXT: set the system message (none: without one); alone: show it", _system),
    "model": Command("NAME: have another model go on; alone: list those in memory", _model),
    "strength": Command(
        "NUMBER: of a steered model's vectors (own: its own); alone: show it", _strength
    ),
    "picture": Command("FILE: show a picture with the next question, to a model that sees", _picture),
    "save": Command("FILE: add the conversation to a file of JSON lines", _save),
}
WORDS = tuple(f"/{name}" for name in ("exit", *COMMANDS))  # as they are typed


def _editor() -> Callable[[], str]:
    """A line editor with history between sessions; Alt-Enter and pastes make several lines."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.formatted_text import ANSI
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    keys.add("enter")(lambda event: event.current_buffer.validate_and_handle())
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    session: Any = PromptSession(
        history=FileHistory(str(home.home() / "chat_history")),
        completer=WordCompleter([*WORDS], sentence=True),
        complete_while_typing=False,
        multiline=True,
        key_bindings=keys,
        prompt_continuation="... ",
    )
    mark = ANSI(typer.style("you: ", fg="cyan", bold=True))
    return lambda: session.prompt(mark)
