"""Orders syntheses as jobs of the store: from a description to a plan, and to a file of rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from rung.config import as_dict, knobs_of, resolve
from rung.errors import ConfigError, RungError, nearest
from rung.server.errors import ApiError
from rung.server.jobs import file_of, in_api_words, takes_jobs
from rung.server.requests import Metadata, Strict
from rung.server.state import Service
from rung.server.synthesis_worker import opener, trained
from rung.store.files import place
from rung.store.jobs import fresh_id
from rung.store.serving import JobRecord
from rung.synthesis.fitting import kind_of, terms_of
from rung.synthesis.knobs import SynthKnobs

MAX_ROWS = 10_000  # of one synthesis
MAX_TOPICS = 400  # of one plan
MAX_NAME = 40  # characters of a file's name, without its ending
# Places on this machine, and what is spent at somebody's API: its owner's to say, no client's.
OWNERS = frozenset(
    {"documents", "plan", "teacher_licence", "key_variable", "price_in", "price_out", "max_money",
     "at_once"}
)  # fmt: skip
FILES = ("seeds", "against")  # knobs that take the id of an uploaded file

Topic = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]


class SynthesisRequest(Strict):
    """Rows from a description. `settings` are knobs of `rung synth`.

    Attributes:
        model: who writes; the served base by default.
        topics: the plan, in place of one of the teacher's. plan_only: plan, and write no rows.
    """

    description: str = Field(min_length=1, max_length=4000, pattern=r"\S")
    model: str | None = None
    name: str | None = Field(None, min_length=1, max_length=MAX_NAME)
    plan_only: bool = False
    topics: list[Topic] | None = Field(None, min_length=1, max_length=MAX_TOPICS)
    settings: dict[str, Any] = Field(default_factory=dict, max_length=64)
    metadata: Metadata | None = None


def order(service: Service, asked: SynthesisRequest, owner: str | None = None) -> JobRecord:
    """Check a request and record it as a job.

    Args:
        owner: id of the key that asks.

    Raises:
        ApiError: naming the parameter at fault. ModelNotFound: for a model that is not there.
    """
    base = takes_jobs(service)
    if asked.plan_only and asked.topics:
        raise ApiError("'topics' are a plan already: leave 'plan_only' out", param="plan_only")
    if asked.model is not None and "teacher" in asked.settings:
        raise ApiError("'model' and 'settings.teacher' both say who writes: give one", param="model")
    if asked.topics and asked.settings.get("topics") is not None:
        told = "'topics' are a plan already: leave 'settings.topics', how many to plan, out"
        raise ApiError(told, param="settings.topics")
    writer = service.catalogue.bare.name if asked.model is None else asked.model
    said = {"teacher": [writer], **asked.settings}
    param = "settings.teacher" if "teacher" in asked.settings else "model"
    specs = {
        name: _spec(service, name, at)
        for names, at in ((said["teacher"], param), (said.get("judge"), "settings.judge"))
        for name in _listed(names)
    }
    files = _files(service, asked.settings, owner)
    knobs = _knobs(said, {name: str(place(file)) for name, (_, file) in files.items()})
    _check_terms(service, knobs, specs, param)
    ids = {name: id for name, (id, _) in files.items()}
    topics = list(dict.fromkeys(" ".join(one.split()) for one in asked.topics or ()))
    return service.store.jobs.put(
        JobRecord(
            fresh_id("synth"), "queued", knobs.teacher[0], base, slug(asked.name or asked.description),
            ids.get("seeds", ""), validation_file=ids.get("against"), kind="synth", owner=owner,
            seed=knobs.seed, notes=dict(asked.metadata or {}),
            settings={
                "description": asked.description, "given": asked.settings, "knobs": as_dict(knobs),
                "specs": specs, "plan_only": asked.plan_only,
                "plan": {"topics": topics, "labels": []} if topics else None,
            },
        )
    )  # fmt: skip


def slug(text: str) -> str:
    """Make a file's name of a text: its words in small letters, joined by hyphens."""
    words = re.findall(r"\w+", text.lower())
    found = ""
    for word in words:
        if len(found) + len(word) >= MAX_NAME:
            break
        found += f"-{word}" if found else word
    return found or (words[0][:MAX_NAME] if words else "rows")


def _listed(names: Any) -> list[Any]:
    return names if isinstance(names, list) else [] if names is None else [names]


def _spec(service: Service, name: Any, param: str) -> str:
    """Where a model that is to write or judge is found: the base's spec, or its name in the store.

    Raises:
        ApiError: for what is neither served nor kept, or does not write.
    """
    if not isinstance(name, str) or "://" in name:
        told = f"'{param.rpartition('.')[2]}' takes the name of a model of this server"
        raise ApiError(told, param=param)
    served, kept = service.engine.models, {record.name for record in service.store.models.list()}
    if (model := served.get(name)) is not None:
        kinds = (model.classifier, model.remote, model.reward, model.mapper, model.towers)
        if any(kind is not None for kind in kinds):
            raise ApiError(f"'{name}' writes no text of its own: choose another", param=param)
        if model.slot == -1 and model.root is None:
            return takes_jobs(service)
        name = service.catalogue.stored_name(name)
    if name not in kept:
        close = nearest(name[:80], {*service.engine.registry.shown, *kept})
        told = f"no model '{name[:80]}' is kept here{close}"
        raise ApiError(told, status=404, param=param, code="model_not_found")
    return name


def _files(service: Service, said: Mapping[str, Any], owner: str | None) -> dict[str, tuple[str, str]]:
    """The uploaded files that settings name, as (id, name in the store) by knob."""
    found = {}
    for knob in FILES:
        if (value := said.get(knob)) is not None:
            param = f"settings.{knob}"
            if not isinstance(value, str) or not value.startswith("file-"):
                raise ApiError(f"'{knob}' takes the id of an uploaded file here", param=param)
            found[knob] = (value, file_of(service, value, param, owner).stored)
    return found


def _knobs(said: Mapping[str, Any], places: Mapping[str, str]) -> SynthKnobs:
    """The settings, checked against what a client may say."""
    known = {k.name for k in knobs_of(SynthKnobs)}
    for key in said:
        param = f"settings.{key[:80]}"
        if key in OWNERS:
            told = f"'{key}' is for the owner of this server: no client can set it"
            raise ApiError(told, param=param)
        if key not in known:
            raise ApiError(f"unknown knob '{key[:80]}'{nearest(key, known - OWNERS)}", param=param)
    try:
        (knobs,) = resolve([SynthKnobs], {**said, **places})
        if knobs.examples > MAX_ROWS:
            raise ConfigError(f"--examples is {knobs.examples}, must be at most {MAX_ROWS}")
        if (knobs.topics or 0) > MAX_TOPICS or len(knobs.labels) > MAX_TOPICS:
            raise ConfigError(f"--topics and --labels are at most {MAX_TOPICS} each")
        if not knobs.teacher:
            raise ConfigError("--teacher needs a model that writes")
        kind_of(knobs)
    except ConfigError as fault:
        raise ApiError(in_api_words(str(fault)), param="settings") from None
    return knobs


def _check_terms(service: Service, knobs: SynthKnobs, specs: Mapping[str, str], param: str) -> None:
    """Refuse licences that stand against training on the rows, before anything is spent."""
    try:
        teachers = [opener(specs)(name, knobs) for name in knobs.teacher]
        terms_of(teachers, knobs, base=trained(takes_jobs(service)))
    except RungError as fault:
        raise ApiError(in_api_words(str(fault)), param=param) from None
