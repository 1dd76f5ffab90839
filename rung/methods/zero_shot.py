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
from rung.data.problem import counted
from rung.errors import ConfigError
from rung.evals import kinds
from rung.methods import base, choice
from rung.methods.workload import Shape
from rung.types import Example, Message, Modality, Task

OWN_PROMPTS = 2  # that every kind of task brings
FILES = (".txt", ".json", ".yaml", ".yml")


@dataclass
class Knobs:
    group: ClassVar[str] = "zero_shot"
    system_prompts: list[str] = knob(
        [],
        "System prompts to choose from: texts, or a .txt (one a line), .json or .yaml file of them; "
        "{labels} stands for the labels. Own ones by default. On pictures: sentences with {} for a "
        "label's name.",
        metavar="TEXT|FILE",
    )
    choose_rows: int | None = choice.choose_rows()


@dataclass(frozen=True)
class SystemPrompt(Conversation):
    """A system message, in the place of the conversation's own or behind it; empty changes nothing."""

    text: str = ""
    replaces: bool = False
    labels: tuple[str, ...] = ()

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

    def on(self, reads: Modality) -> base.Method:
        if reads == self.modality:
            return self
        from rung.methods.pictures.zero_shot import PictureNames

        return PictureNames(self.name, self.Config)

    def candidates(self, config: Knobs, shape: Shape, rows: int) -> float:
        texts = len(config.system_prompts) or OWN_PROMPTS
        return choice.raced(1 + texts * (2 if shape.system else 1), rows)

    def find(self, study: base.Study, config: Knobs) -> base.Fitted:
        from rung.forward.adapter import Adapter

        rows, _ = choice.rows_to_choose_by(study, config.choose_rows or self.rows)
        room = choice.Room.of(study, rows)
        found = candidates(study.task, rows, prompts(config.system_prompts))
        fitting = [c for c in found if room.holds(study, c.conversation, rows)]
        if len(fitting) < len(found):
            study.note(
                f"{counted(len(found) - len(fitting), 'prompt is', 'prompts are')} too long "
                "for the context: not tried"
            )
        race = choice.Race(study, rows)
        best = race.best(fitting or found[:1])
        study.note(f"chose the prompt {race.told(best)}")
        return base.Fitted(Adapter(conversation=best.conversation), race.metrics(best))


def candidates(task: Task, rows: Sequence[Example], own: Sequence[str]) -> list[choice.Candidate]:
    """The conversation as it is, then every way to put a system prompt, by name."""
    has_system = any(choice.asked(e)[0]["role"] in ("system", "developer") for e in rows)
    ways = [("replace", True), ("sharpen", False)] if has_system else [("add", False)]
    found = [choice.Candidate("as it is", SystemPrompt())]
    texts = {f"{n}": text for n, text in enumerate(own, 1)}
    for name, text in (texts or kinds.of(task).system_prompts(task)).items():
        text = text.replace("{labels}", _listed(task.labels))
        for way, replaces in ways:
            found.append(choice.Candidate(f"{way} {name}", SystemPrompt(text, replaces)))
    return found


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
        return text.split("\n")
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
