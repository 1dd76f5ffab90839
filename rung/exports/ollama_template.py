"""Ollama's TEMPLATE for a chat template: what stands around each role's words, found by rendering.

A Jinja template is not translated; conversations of marked words are rendered, and what stands between
the marks is what goes before and behind a role. The result is kept only if, filled in as Ollama does
(Go's text/template over .Messages), it gives the very texts of the Jinja template.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rung.errors import ConfigError
from rung.types import Message

Render = Callable[[Sequence[Message]], str]  # with the beginning of the reply behind it
MARKS = {"system": "MARKSYSTEM", "user": "MARKUSER", "assistant": "MARKREPLY"}
USER: Message = {"role": "user", "content": MARKS["user"]}
REPLY: Message = {"role": "assistant", "content": MARKS["assistant"]}
SYSTEM: Message = {"role": "system", "content": MARKS["system"]}
TRIED = ([USER], [SYSTEM, USER], [USER, REPLY, USER], [SYSTEM, USER, REPLY, USER, REPLY, USER])


@dataclass(frozen=True, kw_only=True)
class OllamaTemplate:
    """What stands before and behind each role's words.

    Attributes:
        around: by role, (before, behind). reply: what begins the reply.
        system: message that is used where a conversation has none; None without one.
    """

    around: dict[str, tuple[str, str]]
    reply: str
    system: str | None

    def text(self) -> str:
        """Write it in Go's template language."""
        cases = []
        for i, (role, (before, behind)) in enumerate(self.around.items()):
            word = "if" if i == 0 else "else if"
            inner = f"{quoted(before)}{{{{ .Content }}}}{quoted(behind)}"
            cases.append(f'{{{{ {word} eq .Role "{role}" }}}}{inner}')
        return (
            f"{{{{ range .Messages }}}}{''.join(cases)}{{{{ end }}}}{{{{ end }}}}{quoted(self.reply)}"
        )

    def fill(self, messages: Sequence[Message]) -> str:
        """Fill it in as Ollama does, the default system message in front where there is none."""
        found = list(messages)
        if self.system is not None and not any(m["role"] == "system" for m in found):
            found.insert(0, {"role": "system", "content": self.system})
        parts = [m["content"].join(self.around[m["role"]]) for m in found]
        return "".join(parts) + self.reply


def quoted(text: str) -> str:
    """Text in a Go template; what would begin an action is written as one."""
    return text.replace("{{", '{{ "{{" }}')


def converted(render: Render, bos: str = "") -> OllamaTemplate:
    """Find Ollama's template for a chat template.

    Args:
        render: the chat template. bos: text of the token that the program itself puts in front.

    Raises:
        ConfigError: where it cannot be expressed so.
    """

    def plain(messages: Sequence[Message]) -> str:
        return render(messages).removeprefix(bos)

    try:
        found = _found(plain)
        alike = all(found.fill(messages) == plain(messages) for messages in TRIED)
    except (ValueError, IndexError, KeyError) as fault:
        raise ConfigError(f"{REFUSED} ({fault})") from None
    if not alike:
        raise ConfigError(REFUSED)
    return found


REFUSED = "this chat template says more than Ollama's can express: use --to gguf"


def _found(plain: Render) -> OllamaTemplate:
    before_system, before_user, between, before_next, last = _cut(
        plain([SYSTEM, USER, REPLY, USER]), ["system", "user", "assistant", "user"]
    )
    first, _ = _cut(plain([USER]), ["user"])
    own = _ending([before_user, before_next, first])
    behind_reply = before_next.removesuffix(own)
    behind_system = before_user.removesuffix(own)
    behind_user = _beginning([between, last, behind_reply or between])
    reply = last.removeprefix(behind_user)
    start = first.removesuffix(own)
    system = None
    if start:
        if not (start.startswith(before_system) and start.endswith(behind_system)):
            raise ValueError("it begins without a system message as with none")
        system = start.removeprefix(before_system).removesuffix(behind_system)
    return OllamaTemplate(
        around={
            "system": (before_system, behind_system),
            "user": (own, behind_user),
            "assistant": (between.removeprefix(behind_user), behind_reply),
        },
        reply=reply,
        system=system,
    )


def _cut(text: str, roles: Sequence[str]) -> list[str]:
    """The pieces of a rendered conversation around its marks; ValueError where one is missing."""
    pieces = []
    for role in roles:
        piece, mark, text = text.partition(MARKS[role])
        if not mark:
            raise ValueError(f"it leaves out the {role}'s words")
        pieces.append(piece)
    return [*pieces, text]


def _beginning(texts: Sequence[str]) -> str:
    return os.path.commonprefix(list(texts))


def _ending(texts: Sequence[str]) -> str:
    return os.path.commonprefix([text[::-1] for text in texts])[::-1]
