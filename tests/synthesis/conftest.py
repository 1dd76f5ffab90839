"""A teacher behind a scripted server, whose answers follow from what it is asked."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from rung.synthesis.knobs import SynthKnobs
from rung.synthesis.pipeline import Made, Watcher, synthesise
from tests.methods.scripted import chat, scripted

WORDS = (
    "river", "winter", "garden", "letter", "window", "morning", "engine", "copper", "lantern",
    "harbour", "village", "orchard", "bridge", "thunder", "meadow", "candle", "market", "pencil",
    "violin", "shadow", "forest", "summer", "anchor", "blanket", "castle", "desert",
)  # fmt: skip

DESCRIPTION = "Answers any worry with one warm sentence."


def sentence(seed: int) -> str:
    """Eight words that follow from a seed."""
    drawn = random.Random(seed)
    return " ".join(drawn.choice(WORDS) for _ in range(8)).capitalize() + "."


def wanted(body: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of what is asked for; None for plain text."""
    form = body.get("response_format")
    return form["json_schema"]["schema"]["properties"] if form else None


def fair(body: dict[str, Any]) -> str:
    """What a willing teacher answers."""
    names = wanted(body)
    if names is None:
        return sentence(body["seed"] + 1)
    if "list" in names:
        return json.dumps({"list": [f"{w} {body['seed']}" for w in WORDS[:6]]})
    if "score" in names:
        return json.dumps({"score": "5"})
    return json.dumps({name: sentence(body["seed"] + i) for i, name in enumerate(names)})


Say = Callable[[dict[str, Any]], str]


@contextmanager
def teaching(say: Say = fair) -> Iterator[SimpleNamespace]:
    """A server whose model `wise` answers as `say` does; `.asked` gathers what it was asked."""
    with scripted(lambda path, body: chat(say(body))) as server:
        yield SimpleNamespace(name=f"wise@{server.url}", asked=server.asked)


def made_by(teacher: str, watcher: Watcher | None = None, **settings: Any) -> Made:
    """A data set of ten rows by default, from a teacher under a free licence."""
    settings = {"examples": 10, "teacher_licence": "mit", **settings}
    found = synthesise(DESCRIPTION, SynthKnobs(teacher=[teacher], **settings), watcher)
    assert found is not None
    return found


@pytest.fixture
def teacher(rung_home: Any) -> Iterator[SimpleNamespace]:
    with teaching() as server:
        yield server
