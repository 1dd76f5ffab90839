"""Zero-shot: the best of a few written system prompts, chosen on validation rows.

Among the candidates is always the conversation as it is. Where the data brings a system message of its
own, it is kept, sharpened by a sentence, or replaced.

    rung tune NAME --method zero_shot --data ...
    rung tune NAME --method zero_shot --system-prompts prompts.txt --data ...
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rung.config import knob
from rung.data.conversation import Conversation
from rung.errors import ConfigError
from rung.methods import base, choice
from rung.types import Example, Message, Task

MOST_LABELS = 20  # that a prompt names; more would be longer than the text
FILES = (".txt", ".json", ".yaml", ".yml")


@dataclass
class Knobs:
    group: ClassVar[str] = "zero_shot"
    system_prompts: list[str] = knob(
        [],
        "System prompts to choose from: texts, or a .txt (one a line), .json or .yaml file of them; "
        "{labels} stands for the labels. Own ones by default.",
        metavar="TEXT|FILE",
    )
    choose_rows: int | None = choice.choose_rows()


@dataclass(frozen=True)
class SystemPrompt(Conversation):
    """A system message, in the place of the conversation's own or behind it; empty changes nothing."""

    text: str = ""
    replaces: bool = False

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        if not self.text:
            return list(messages)
        first = [m for m in messages if m["role"] in ("system", "developer")]
        rest = [m for m in messages if m["role"] not in ("system", "developer")]
        own = [] if self.replaces else [m["content"] for m in first if m["content"].strip()]
        return [{"role": "system", "content": "\n\n".join([*own, self.text])}, *rest]

    @classmethod
    def read(cls, settings: dict[str, Any]) -> SystemPrompt:
        """From `settings.json`; raises KeyError or TypeError."""
        text, replaces = settings["text"], settings["replaces"]
        if not isinstance(text, str) or not isinstance(replaces, bool):
            raise TypeError("text and replaces")
        return cls(text, replaces)


class Method(choice.PromptMethod):
    summary = "the best of a few system prompts"
    Config = Knobs
    speaks = SystemPrompt

    def find(self, study: base.Study, config: Knobs) -> base.Fitted:
        from rung.forward.adapter import Adapter

        rows, _ = choice.rows_to_choose_by(study, config.choose_rows or self.rows)
        room = choice.Room.of(study, rows)
        found = candidates(study.task, rows, prompts(config.system_prompts))
        fitting = [c for c in found if room.holds(study, c.conversation, rows)]
        if len(fitting) < len(found):
            study.note(f"{len(found) - len(fitting)} prompts are too long for the context: not tried")
        race = choice.Race(study, rows)
        best = race.best(fitting or found[:1])
        study.note(f"chose the prompt {race.told(best)}")
        return base.Fitted(Adapter(conversation=best.conversation), race.metrics(best))


def candidates(task: Task, rows: Sequence[Example], own: Sequence[str]) -> list[choice.Candidate]:
    """The conversation as it is, then every way to put a system prompt, by name."""
    has_system = any(choice.asked(e)[0]["role"] in ("system", "developer") for e in rows)
    ways = [("replace", True), ("sharpen", False)] if has_system else [("add", False)]
    found = [choice.Candidate("as it is", SystemPrompt())]
    texts = {f"{n}": text for n, text in enumerate(own, 1)} if own else written(task)
    for name, text in texts.items():
        text = text.replace("{labels}", _listed(task.labels))
        for way, replaces in ways:
            found.append(choice.Candidate(f"{way} {name}", SystemPrompt(text, replaces)))
    return found


def written(task: Task) -> dict[str, str]:
    """Prompts for a kind of task, the shortest first."""
    if task.kind == "classification":
        if len(task.labels) > MOST_LABELS:
            return {
                "label": "Classify the text. Reply with its label only.",
                "careful": "You sort texts into fixed classes. Read the whole text, decide which class "
                "fits best, and reply with the name of that class and nothing else.",
            }
        return {
            "label": "Reply with one of these labels only: {labels}.",
            "careful": "You sort texts into fixed classes. Read the whole text, decide which of the "
            "classes {labels} fits best, and reply with the name of that class and nothing else.",
        }
    return dict(WRITTEN.get(task.kind, WRITTEN["generation"]))


WRITTEN = {
    "extraction": {
        "exact": "Extract what is asked for. Use the words of the text and add nothing.",
        "format": "You turn texts into data. Give every item that the text states, in the format asked "
        "for, and no item that it does not state. Write no explanation.",
    },
    "question_answering": {
        "short": "Answer the question in as few words as possible.",
        "careful": "You answer questions precisely. If a text is given, rely on it alone. Reply with "
        "the answer itself: no full sentence, no explanation.",
    },
    "translation": {
        "plain": "Translate the text. Reply with the translation only.",
        "careful": "You are a professional translator. Keep meaning, tone, names and numbers as they "
        "are, write what a native speaker would write, and reply with the translation only.",
    },
    "generation": {
        "plain": "Do what is asked, briefly and directly.",
        "careful": "You are a careful assistant. Follow the request to the letter, keep to its form "
        "and length, and write nothing before or after the answer itself.",
    },
}


def prompts(given: Sequence[str]) -> list[str]:
    """Texts as they are, and what files hold, each once.

    Raises:
        ConfigError: when a file is missing or is no list of texts.
    """
    found: list[str] = []
    for item in given:
        is_file = item.lower().endswith(FILES) and "\n" not in item
        found += _file(Path(item).expanduser()) if is_file else [item]
    texts = [text.strip() for text in found]
    if given and not any(texts):
        raise ConfigError("--system-prompts holds no prompt: write at least one")
    return list(dict.fromkeys(text for text in texts if text))


def _file(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as fault:
        raise ConfigError(f"--system-prompts: cannot read {path}: {fault.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--system-prompts: {path} is not UTF-8: save the file as UTF-8") from None
    if path.suffix.lower() == ".txt":
        return text.splitlines()
    import yaml

    try:
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        raise ConfigError(f"--system-prompts: {path} cannot be parsed: write a list of texts") from None
    if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
        raise ConfigError(f"--system-prompts: {path} must hold a list of texts")
    return content


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels)
