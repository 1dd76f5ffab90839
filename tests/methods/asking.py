"""Studies on a tiny base, and a stand-in for the model whose right answers are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rung.methods.base import Study
from rung.types import Example, Message, Task
from tests.engine.world import tiny_llama
from tests.tokens import tiny_tokenizer

YES_NO = Task("classification", "accuracy", ("no", "yes"))
Answer = Callable[[list[Message], Example], str]


def row(text: str, reply: str, system: str | None = None, gold: str | None = None) -> Example:
    first: list[Message] = [{"role": "system", "content": system}] if system else []
    turns: list[Message] = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": reply},
    ]
    return Example((*first, *turns), gold=gold, origin=text)


def rows(count: int, kind: str) -> list[Example]:
    """Questions that no other kind has, with yes and no in turn."""
    return [row(f"{kind} question {i}", ("no", "yes")[i % 2]) for i in range(count)]


def study(
    folder: Path,
    task: Task = YES_NO,
    train: list[Example] | None = None,
    validation: list[Example] | None = None,
    seed: int = 0,
    context: int = 4096,
    stopping: Callable[[], bool] = lambda: False,
) -> Study:
    from rung.data import Template
    from rung.forward.bank import Bank

    notes: list[str] = []
    made = Study(
        Bank(tiny_llama(max_position_embeddings=context)), Template.of(tiny_tokenizer()), task,
        rows(60, "train") if train is None else train,
        rows(40, "validation") if validation is None else validation,
        seed, folder, notes.append, stopping,
    )  # fmt: skip
    made.notes = notes  # type: ignore[attr-defined]
    return made


def answering(monkeypatch: Any, answer: Answer) -> list[tuple[str, list[list[Message]]]]:
    """Have `answer(messages as rewritten, example)` answer in place of the model.

    Returns:
        what each candidate was asked, in order: its name and the conversations.
    """
    from rung.errors import Interrupted
    from rung.evals import predict_fitting as module

    asked: list[tuple[str, list[list[Message]]]] = []

    def predict(bank, model, examples, task, *, stopping=None, progress=None):
        if stopping is not None and stopping():
            raise Interrupted
        seen = [model.conversation.messages(e.messages[:-1]) for e in examples]
        asked.append((model.name, seen))
        texts = [answer(m, e) for m, e in zip(seen, examples, strict=True)]
        return module.Answers([model.conversation.answer(t) for t in texts])

    monkeypatch.setattr(module, "predict_fitting", predict)
    return asked


def again(adapter: Any, name: str, made: Study, folder: Path) -> Any:
    """The conversation as it comes back from a sealed folder."""
    from rung import methods
    from rung.artefacts import folders
    from rung.methods import artefact
    from rung.types import BaseInfo

    method = methods.get(name)
    base = BaseInfo("tiny", "tiny", "/nowhere", "0")

    def fill(temporary: Path) -> None:
        config = method.Config()
        artefact.save(temporary, adapter, made.bank, method, config, base, made.template, {})

    folders.write(folder, fill)
    folders.verify(folder)
    folders.inspect(folder)
    return artefact.load(folder, made.bank)[0].conversation
