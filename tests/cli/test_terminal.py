"""`rung chat` in a terminal: commands, wrapping between words, and answers that go in circles."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.cli import terminal
from rung.cli.conversation import Conversation
from rung.errors import ConfigError


class Engine:
    """Two models by name, which nobody asks here."""

    models = {"coach": object(), "tiny": object()}

    def start(self):
        return self

    def model(self, name):
        if name not in self.models:
            raise ConfigError(f"no model '{name}'")
        return self.models[name]


@pytest.fixture
def talk():
    return Conversation(Engine(), "coach", None, "Be brief.")


def wrapped(text: str, width: int, cuts: list[int]) -> str:
    """A text written in pieces, cut at those places."""
    out: list[str] = []
    writer = terminal.Wrapped(out.append, width)
    edges = [0, *sorted(c % (len(text) + 1) for c in cuts), len(text)]
    for begin, end in zip(edges, edges[1:], strict=False):
        writer.write(text[begin:end])
    writer.end()
    return "".join(out)


@given(
    st.lists(st.text("abcdefgh", min_size=1, max_size=9), max_size=30),
    st.integers(10, 40),
    st.lists(st.integers(0, 500), max_size=5),
)
def test_lines_break_between_words_and_nothing_is_lost(words, width, cuts):
    text = " ".join(words)
    shown = wrapped(text, width, cuts)
    assert shown.split() == words
    assert all(len(line) <= width for line in shown.split("\n"))
    assert shown == wrapped(text, width, [])  # however the pieces are cut


def test_a_word_longer_than_a_line_and_wide_letters_are_shown_whole():
    assert wrapped("x" * 25, 10, []).replace("\n", "") == "x" * 25
    assert wrapped("ab 日本語日本", 10, []) == "ab \n日本語日本"


def test_without_a_width_text_passes_as_it_is():
    out: list[str] = []
    writer = terminal.Wrapped(out.append, None)
    writer.write("a  b\n c" * 99)
    writer.end()
    assert "".join(out) == "a  b\n c" * 99


@pytest.mark.parametrize("text", ["I am here. " * 6, "yes no " * 5, "\n\nQ: a\nA: b" * 5])
def test_an_answer_that_goes_in_circles_is_noticed(text):
    assert terminal.goes_in_circles(text)


@pytest.mark.parametrize("text", ["", "Fine.", "1, 2, 3, 4, 5, 6, 7, 8", "No no no.", "a\n\n\n\n\n\n"])
def test_other_answers_are_not(text):
    assert not terminal.goes_in_circles(text)


def test_commands_change_system_message_and_model(talk):
    talk.turns.append({"role": "user", "content": "Hello"})
    assert "coach, tiny" in terminal.command(talk, "/model")
    terminal.command(talk, "/model tiny")
    assert talk.name == "tiny" and len(talk.turns) == 2  # the conversation goes on
    terminal.command(talk, "/system Speak plainly.")
    assert talk.turns == [{"role": "system", "content": "Speak plainly."}]
    terminal.command(talk, "/system none")
    assert talk.turns == []
    with pytest.raises(ConfigError, match="no model 'nobody'"):
        terminal.command(talk, "/model nobody")


def test_an_unknown_command_names_the_nearest(talk):
    with pytest.raises(ConfigError, match="no command /claer, did you mean 'clear'"):
        terminal.command(talk, "/claer")


def test_a_saved_conversation_is_a_row_of_data(talk, tmp_path):
    path = tmp_path / "talk.jsonl"
    with pytest.raises(ConfigError, match="nothing to save yet"):
        terminal.command(talk, f"/save {path}")
    talk.turns += [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hé"}]
    terminal.command(talk, f"/save {path}")
    terminal.command(talk, f"/save {path}")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows == [{"messages": talk.turns}] * 2
    with pytest.raises(ConfigError, match="cannot write"):
        terminal.command(talk, f"/save {tmp_path}")
