"""The texts that bases are measured on, read from material.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Passage:
    """A text in one style."""

    style: str
    text: str


@dataclass(frozen=True)
class Hidden:
    """Facts of one form, sentences to hide them among, and how to ask for one."""

    fact: str
    question: str
    places: tuple[str, ...]
    words: tuple[str, ...]
    filler: tuple[str, ...]


@dataclass(frozen=True)
class Shots:
    """A task of naming kinds: how it is put, what may be shown, what is asked."""

    form: str
    kinds: tuple[str, ...]
    shown: dict[str, tuple[str, ...]]
    asked: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Material:
    version: int
    passages: tuple[Passage, ...]
    hidden: Hidden
    beginnings: tuple[str, ...]
    shots: Shots


@cache
def material() -> Material:
    """The file, read once. Lines that were broken for the file's sake are joined where it is prose."""
    with Path(__file__).with_name("material.toml").open("rb") as file:
        raw = tomllib.load(file)
    passages = tuple(Passage(p["style"], _joined(p["text"])) for p in raw["passage"])
    hidden, shots = raw["hidden"], raw["shots"]
    lists = {key: tuple(hidden[key]) for key in ("places", "words", "filler")}
    things = {
        part: {kind: tuple(names) for kind, names in shots[part].items()} for part in ("shown", "asked")
    }
    return Material(
        raw["version"],
        passages,
        Hidden(hidden["fact"], hidden["question"], **lists),
        tuple(raw["variety"]["beginnings"]),
        Shots(shots["form"], tuple(shots["kinds"]), **things),
    )


def _joined(text: str) -> str:
    """Paragraphs as single lines; turns of a dialogue and parts of a letter stay apart."""
    paragraphs = []
    for paragraph in text.strip().split("\n\n"):
        lines: list[str] = []
        for line in paragraph.split("\n"):
            if lines and not line.startswith('"') and len(lines[-1]) > 60:
                lines[-1] += " " + line
            else:
                lines.append(line)
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)
