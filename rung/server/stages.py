"""The stages around a model, each of which a model has or has not.

In this order: checks of what comes in, moderation of it, a system message, passages of documents, (the
model's template and its answer,) moderation of what goes out. A YAML file says which model has which;
what stands under `*` holds for all that say nothing else of it:

    "*":
      max_characters: 20000
    coach:
      refuse: ["(?i)card number"]
      documents: manuals
      moderate: [requests, answers]

    rung serve coach --stages stages.yaml --moderation judge
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rung.config import knob, read_yaml, resolve
from rung.engine import Engine
from rung.engine.patterns import ConstraintError, check_pattern
from rung.errors import ConfigError
from rung.server.moderation import Judge, Moderator

if TYPE_CHECKING:
    from rung.methods.rag import Retrieved

log = logging.getLogger("rung.server")

ALL = "*"
CHARACTERS = 2  # of a token at the least: so many of retrieved text are sure to fit


@dataclass
class Stages:
    """What one model has around it."""

    group: ClassVar[str] = "stages"
    max_characters: int | None = knob(None, "Characters of a request's messages at most.", least=1)
    refuse: list[str] = knob(
        [], "Regular expressions; a request in which one is found is refused.", metavar="REGEX"
    )
    moderate: list[str] = knob(
        [], "What is judged: requests, answers, or both.", choices=("requests", "answers")
    )
    moderation: str | None = knob(
        None,
        "Who judges: a classifier made by linear_probe, or a Python function as module:function; "
        "the server's own by default.",
        metavar="NAME",
    )
    system: str | None = knob(None, "The system message of conversations that bring none.")
    documents: str | None = knob(
        None, "A folder of txt, md, html and pdf files; passages go in front of the question.",
        metavar="FOLDER",
    )  # fmt: skip
    passages: int = knob(3, "How many passages.", least=1, most=50)
    retrieval: str = knob(
        "bm25", "How they are found: by words, by meaning, or by both.",
        choices=("bm25", "vectors", "hybrid"),
    )  # fmt: skip
    vectors_by: str = knob(
        "minilm", "The sentence encoder that makes the vectors: a name, folder or Hub id.",
        metavar="SPEC",
    )  # fmt: skip
    trace: bool = knob(True, "Whether clients may ask what happened to their requests.")


BOTH = ["requests", "answers"]


def read(path: str | Path) -> dict[str, Stages]:
    """The stages of each model that a YAML file names.

    Raises:
        ConfigError: naming every unknown key and every bad value, and where each stands.
    """
    return parse(read_yaml(path), str(path))


def parse(given: Mapping[str, Any], place: str = "stages") -> dict[str, Stages]:
    """As `read`, from what the file holds."""
    found, faults = {}, []
    shared = given.get(ALL) or {}
    for name in {ALL: None, **given}:
        own = given.get(name) or {}
        if not isinstance(own, dict) or not isinstance(shared, dict):
            faults.append(f"'{name}' needs lines such as 'max_characters: 4000'")
            continue
        try:
            found[str(name)] = resolve([Stages], shared, own)[0]
            for pattern in found[str(name)].refuse:
                check_pattern(pattern)
                re.compile(pattern)
        except (ConfigError, ConstraintError, re.error) as fault:
            told = (
                str(fault).replace("--", "").replace("-", "_") if type(fault) is ConfigError else fault
            )
            faults.append(f"'{name}': {told}")
    if faults:
        raise ConfigError(f"{place}: {'; '.join(dict.fromkeys(faults))}")
    return found


def guarded(found: Mapping[str, Stages], names: Sequence[str]) -> dict[str, Stages]:
    """The same stages with both moderations switched on for some models."""
    import dataclasses

    usual = found.get(ALL, Stages())
    more = {n: dataclasses.replace(found.get(n, usual), moderate=list(BOTH)) for n in names}
    return {**found, **more}


def named_judges(found: Mapping[str, Stages]) -> list[str]:
    """The classifiers that stages name, which must be served for it."""
    names = [s.moderation for s in found.values() if s.moderation and ":" not in s.moderation]
    return list(dict.fromkeys(names))


def judge_of(named: str | Judge | None) -> str | Judge | None:
    """A classifier's name as it is; `module:function` as that function.

    Raises:
        ConfigError: when there is no such function.
    """
    if not isinstance(named, str) or ":" not in named:
        return named
    module, _, name = named.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as fault:
        raise ConfigError(f"the moderation '{named}' cannot be had: {fault}") from None
    if not callable(found):
        raise ConfigError(f"the moderation '{named}' is no function")
    return found


@dataclass
class Pipeline:
    """The stages of one model, ready for requests.

    Attributes:
        moderator: None where nothing is judged. retrieved: None where there are no documents.
    """

    stages: Stages
    patterns: list[re.Pattern[str]] = field(default_factory=list)
    moderator: Moderator | None = None
    retrieved: Retrieved | None = None

    @property
    def judges_requests(self) -> bool:
        return self.moderator is not None and "requests" in self.stages.moderate

    @property
    def judges_answers(self) -> bool:
        return self.moderator is not None and "answers" in self.stages.moderate


class Pipelines:
    """The stages of all models of a server.

    Args:
        found: by the models' names. moderator: who judges where the stages name nobody.

    Raises:
        ConfigError: when stages need a judge or documents that are not there.
    """

    def __init__(self, engine: Engine, found: Mapping[str, Stages], moderator: Moderator):
        self._engine, self._moderator = engine, moderator
        self._judges: dict[str, Moderator] = {}
        self._indexed: dict[tuple, Retrieved] = {}
        self._pipelines = {name: self._pipeline(name, stages) for name, stages in found.items()}
        self._pipelines.setdefault(ALL, Pipeline(Stages()))

    def of(self, *names: str) -> Pipeline:
        """The stages of a model that goes by these names; the first that is known counts."""
        return next((self._pipelines[n] for n in names if n in self._pipelines), self._pipelines[ALL])

    def _pipeline(self, name: str, stages: Stages) -> Pipeline:
        pipeline = Pipeline(stages, [re.compile(p) for p in stages.refuse])
        if stages.moderate:
            pipeline.moderator = self._judge(stages.moderation)
            if not pipeline.moderator.there:
                told = f"'{name}' is to be moderated, and nobody judges: name a classifier"
                raise ConfigError(f"{told} with --moderation, or under 'moderation' of its stages")
        if stages.documents:
            pipeline.retrieved = self._retrieved(stages)
        return pipeline

    def _judge(self, named: str | None) -> Moderator:
        if named is None:
            return self._moderator
        if named not in self._judges:
            self._judges[named] = Moderator(self._engine, judge_of(named))
        return self._judges[named]

    def _retrieved(self, stages: Stages) -> Retrieved:
        """The index of a folder of documents, in memory once for all models that have it."""
        import dataclasses

        from rung.methods.rag import Retrieved

        key = (stages.documents, stages.retrieval, stages.vectors_by)
        if key not in self._indexed:
            room = CHARACTERS * self._engine.context
            index = _index(stages)
            self._indexed[key] = Retrieved(mode=stages.retrieval, characters=room, index=index)
        return dataclasses.replace(self._indexed[key], count=stages.passages)


def _index(stages: Stages) -> Any:
    from rung.data.retrieval import Index, cut, read_folder

    embed = None
    if stages.retrieval != "bm25":
        from rung.bases import encoder

        made = encoder.load(stages.vectors_by)

        def embed(texts: Sequence[str]) -> Any:
            return made.encode(texts).numpy()

    return Index.of(cut(read_folder(str(stages.documents), log.warning)), embed)
