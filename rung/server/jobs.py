"""From a client's request for a tuning to a job: everything checked before it is queued.

`method` is OpenAI's: `{"type": "supervised", "supervised": {"hyperparameters": {...}}}`, or the type
`dpo` with pairs, or `reinforcement` with prompts and a grader. Rung adds to it in one way: the type may
also be any of its methods or objectives, and the hyperparameters any of their knobs:
`{"type": "prefix_tuning", "prefix_tuning": {"hyperparameters": {"n_epochs": 4, "virtual_tokens": 8}}}`.
Where it is an objective, the hyperparameter `method` says what carries it, LoRA where it is not given.
"""

from __future__ import annotations

import re
import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rung import methods, objectives
from rung.artefacts import folders
from rung.config import Knob, knobs_of
from rung.data.knobs import DataKnobs
from rung.errors import ConfigError, nearest
from rung.server import reinforcement
from rung.server.errors import ApiError
from rung.server.requests import Metadata, Strict
from rung.server.state import Service
from rung.store.files import place
from rung.store.jobs import fresh_id
from rung.store.serving import FileNotFound, FileRecord, JobRecord
from rung.train.knobs import RunKnobs, TrainKnobs
from rung.train.plan import Plan

COLUMNS = ("system", "user", "assistant", "text", "label", "label_columns")
# What the job itself decides, or what would read or write where the client says.
OURS = frozenset(
    {"base", "method", "objective", "parent", "dtype", "device", "push_to_hub", "quantize",
     "data", "validation_data", "test_data", "seed", "tools"}
)  # fmt: skip
WORD = re.compile(r"[\w.,*|() \[\]-]{0,200}")

Auto = Literal["auto"]
BatchSize = Auto | Annotated[int, Field(ge=1, le=256)]
Multiplier = Auto | Annotated[float, Field(gt=0, le=1000)]
Epochs = Auto | Annotated[int, Field(ge=1, le=50)]
Beta = Auto | Annotated[float, Field(gt=0, le=2)]


class Hyperparameters(BaseModel):
    """OpenAI's three, each `auto` or in range; whatever else is given must be a knob of Rung."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    batch_size: BatchSize | None = None
    learning_rate_multiplier: Multiplier | None = None
    n_epochs: Epochs | None = None
    beta: Beta | None = None


class Settings(BaseModel):
    """The part of a method's request that stands under its name."""

    model_config = ConfigDict(extra="allow")
    hyperparameters: Hyperparameters | None = None


class MethodRequest(BaseModel):
    """`type`, and under the same name what is asked of it."""

    model_config = ConfigDict(extra="allow")
    type: str
    supervised: Settings | None = None
    dpo: Settings | None = None
    reinforcement: Settings | None = None


class JobRequest(Strict):
    model: str
    training_file: str
    validation_file: str | None = None
    suffix: str | None = Field(None, min_length=1, max_length=64)
    seed: int | None = Field(None, ge=0, lt=2**31)
    metadata: Metadata | None = None
    method: MethodRequest | None = None
    hyperparameters: Hyperparameters | None = None
    integrations: list[dict[str, Any]] | None = Field(None, max_length=5)

    @model_validator(mode="after")
    def _asks_for_nothing_outside(self) -> JobRequest:
        if self.integrations:
            told = "'integrations' are not supported: read the job's events instead"
            raise ApiError(told, param="integrations", code="not_supported")
        return self


def order(service: Service, asked: JobRequest, owner: str | None = None) -> JobRecord:
    """Check a request and record it as a job.

    Args:
        owner: id of the key that asks.

    Raises:
        ApiError: naming the parameter at fault.
        ModelNotFound: for a model that is not served.
    """
    base = takes_jobs(service)
    parent = _parent(service, asked.model)
    file = file_of(service, asked.training_file, "training_file", owner)
    held = None
    if asked.validation_file is not None:
        held = file_of(service, asked.validation_file, "validation_file", owner)
    name, objective, hyperparameters = _method(asked)
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    id = fresh_id()
    suffix = _suffix(service, asked.suffix)
    model = f"{suffix[:40] if suffix else 'ft'}-{id.removeprefix('ftjob-')[:12]}"
    known = _knobs(name, objective)
    settings = {
        **service.settings.job_options,
        **_mapped(service, _usual_lr(name, objective), hyperparameters, known, owner),
        **_rewarded(service, asked),
        "base": base, "method": name, "objective": objective, "parent": parent, "seed": seed,
        "data": str(place(file.stored)),
        "validation_data": str(place(held.stored)) if held else None,
    }  # fmt: skip
    # All rows of the training file are trained on, unless the client wants some held out.
    settings.setdefault("test", 0.0)
    settings.setdefault("validation", 0.0)
    try:
        plan = Plan.of(model, settings)
    except ConfigError as fault:
        raise ApiError(in_api_words(str(fault)), param="method.hyperparameters") from None
    auto = hyperparameters or Hyperparameters()
    multiplier = auto.learning_rate_multiplier
    job = JobRecord(
        id, "validating_files", asked.model, base, model, file.id, suffix,
        held.id if held else None,
        method=_shown(asked, known), settings=settings, notes=dict(asked.metadata or {}), seed=seed,
        owner=owner,
        hyperparameters={
            "n_epochs": max(1, round(plan.train.epochs)), "batch_size": plan.train.batch_size,
            "learning_rate_multiplier": 1.0 if multiplier in (None, "auto") else multiplier,
        },
    )  # fmt: skip
    return service.store.jobs.put(job)


def takes_jobs(service: Service) -> str:
    """The spec of the base that jobs are taken for.

    Raises:
        ApiError: 403 where the server takes none.
    """
    base = service.settings.base
    if base is None or not service.settings.takes_jobs:
        raise ApiError("this server takes no tuning jobs: start it with --jobs 1", status=403)
    return base


def _parent(service: Service, name: str) -> str | None:
    """The model of the store to go on from; None for the base."""
    if service.engine.model(name).root is None:
        return None
    return service.catalogue.stored_name(name)


def file_of(
    service: Service, id: str, param: str, owner: str | None = None, purpose: str = "fine-tune"
) -> FileRecord:
    """Read the record of a file that a request names, to train on unless `purpose` says otherwise.

    Raises:
        ApiError: naming the parameter, for a file that is not there, not for this, or another's.
    """
    try:
        file = service.store.files.get(id, owner)
    except FileNotFound as fault:
        raise ApiError(f"invalid {param}: {fault}", param=param, code="invalid_file") from None
    if file.purpose != purpose:
        told = f"invalid {param}: '{id}' was uploaded for '{file.purpose}', not for '{purpose}'"
        raise ApiError(told, param=param, code="invalid_file")
    return file


def _suffix(service: Service, suffix: str | None) -> str | None:
    if suffix is None:
        return None
    try:
        folders.model_name(suffix)
    except ConfigError as fault:
        raise ApiError(f"'suffix': {fault}", param="suffix") from None
    taken = service.engine.models.get(suffix)
    if taken is not None and suffix not in service.catalogue.aliases:
        raise ApiError(f"'suffix': a model '{suffix}' is served already", param="suffix")
    return suffix


def _method(asked: JobRequest) -> tuple[str, str, Hyperparameters | None]:
    """Which method and which objective of Rung, and what is asked of them."""
    if asked.method is None:
        return RunKnobs.method, RunKnobs.objective, asked.hyperparameters
    kind = asked.method.type
    known = ["supervised", reinforcement.TYPE, *methods.names(), *objectives.names()]
    if kind not in known:
        hint = nearest(kind[:80], known)
        raise ApiError(f"no method '{kind[:80]}'{hint}", param="method.type")
    extra = asked.method.model_extra or {}
    if stray := [key for key in extra if key != kind]:
        raise ApiError(f"'method.{stray[0][:80]}' does not belong to the type '{kind}'", param="method")
    said = getattr(asked.method, kind, None) or extra.get(kind)
    try:
        settings = said if isinstance(said, Settings) else Settings.model_validate(said or {})
    except ValueError as fault:
        raise ApiError(
            f"'method.{kind}' is malformed: {_first(fault)}", param=f"method.{kind}"
        ) from None
    own = {"grader"} if kind == reinforcement.TYPE else set()
    if unknown := set(settings.model_extra or {}) - own:
        first = str(min(unknown))[:80]
        told = f"unknown parameter 'method.{kind}.{first}': knobs go into 'hyperparameters'"
        raise ApiError(told, param=f"method.{kind}")
    found = settings.hyperparameters or asked.hyperparameters
    if kind == reinforcement.TYPE:
        said = found.model_dump(exclude_none=True) if found else {}
        mapped = Hyperparameters.model_validate(reinforcement.hyperparameters(said))
        return RunKnobs.method, reinforcement.OBJECTIVE, mapped
    if kind in objectives.names():
        name, rest = _carrier(found)
        return name, kind, rest
    return kind if kind in methods.names() else RunKnobs.method, RunKnobs.objective, found


def _carrier(said: Hyperparameters | None) -> tuple[str, Hyperparameters | None]:
    """The method that carries a job's objective, and the hyperparameters besides."""
    if said is None or "method" not in (said.model_extra or {}):
        return RunKnobs.method, said
    rest = said.model_dump(exclude_unset=True)
    name = rest.pop("method")
    known = [n for n in methods.names() if methods.get(n).trained]
    if name not in known:
        hint = nearest(str(name)[:80], known)
        told = f"no method '{str(name)[:80]}' that is trained{hint}"
        raise ApiError(told, param="method.hyperparameters.method")
    return name, Hyperparameters.model_validate(rest)


def _rewarded(service: Service, asked: JobRequest) -> dict[str, Any]:
    """The reward of a reinforcement job; nothing of others. Raises ApiError for an unsound grader."""
    if asked.method is None or asked.method.type != reinforcement.TYPE:
        return {}
    extra = asked.method.reinforcement and asked.method.reinforcement.model_extra
    return {"reward": reinforcement.reward_of(service, (extra or {}).get("grader"))}


def _knobs(name: str, objective: str) -> dict[str, Knob]:
    """What a client may set, by name."""
    classes = (DataKnobs, TrainKnobs, methods.get(name).Config, objectives.get(objective).Config)
    return {k.name: k for cls in classes for k in knobs_of(cls) if k.name not in OURS}


def _usual_lr(name: str, objective: str) -> float:
    """The learning rate that a multiplier multiplies."""
    usual = objectives.get(objective).usual(methods.get(name).defaults)
    return float(usual.get("lr", TrainKnobs.lr))


def _mapped(
    service: Service,
    usual_lr: float,
    said: Hyperparameters | None,
    known: dict[str, Knob],
    owner: str | None,
) -> dict[str, Any]:
    """A client's hyperparameters as Rung's knobs.

    Raises:
        ApiError: for an unknown knob, or a text that might name a place on the server.
    """
    if said is None:
        return {}
    found: dict[str, Any] = {}
    if said.beta not in (None, "auto"):
        if "beta" not in known:
            told = "'beta' belongs to another type of job, such as 'dpo'"
            raise ApiError(told, param="method.hyperparameters.beta")
        found["beta"] = said.beta
    if isinstance(said.batch_size, int):
        found["batch_size"] = said.batch_size
    if isinstance(said.n_epochs, int):
        found["epochs"] = said.n_epochs
    if isinstance(said.learning_rate_multiplier, (int, float)):
        found["lr"] = usual_lr * said.learning_rate_multiplier
    for key, value in (said.model_extra or {}).items():
        param = f"method.hyperparameters.{key[:80]}"
        if key not in known:
            raise ApiError(f"unknown knob '{key[:80]}'{nearest(key, known)}", param=param)
        found[key] = safe_value(service, known[key], value, param, owner)
    return found


def safe_value(service: Service, knob: Knob, value: Any, param: str, owner: str | None = None) -> Any:
    """The value of a knob; a text may name an uploaded file, and nothing else on this machine.

    Raises:
        ApiError: for a text that might name a place, or an uploaded file that is another's.
    """
    if isinstance(value, (list, tuple)):
        return [safe_value(service, knob, one, param, owner) for one in value]
    if knob.type is not str or knob.choices or knob.name in COLUMNS or value is None:
        return value
    if isinstance(value, str) and re.fullmatch(r"file-[0-9a-f]+", value):
        try:
            return str(place(service.store.files.get(value, owner).stored))
        except FileNotFound as fault:
            raise ApiError(str(fault), param=param) from None
    if knob.metavar == "SPEC":
        return reinforcement.safe_spec(str(value), param)
    places = {"SOURCE", "PATH", "FILE", "FOLDER", "REPO", "NAME", "DIR"}
    if knob.metavar in places or not isinstance(value, str) or not WORD.fullmatch(value):
        raise ApiError(f"'{knob.name}' takes the id of an uploaded file here", param=param)
    return value


def _shown(asked: JobRequest, known: dict[str, Knob]) -> dict[str, Any]:
    """`method` as it was asked for, whole."""
    said = asked.hyperparameters.model_dump(exclude_none=True) if asked.hyperparameters else {}
    usual = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    if "beta" in known:
        usual["beta"] = "auto"
    if asked.method is None:
        return {"type": "supervised", "supervised": {"hyperparameters": usual | said}}
    given = asked.method.model_dump(exclude_none=True)
    kind = given["type"]
    parts = given.get(kind) or {}
    parts["hyperparameters"] = usual | (parts.get("hyperparameters") or said)
    return {"type": kind, kind: parts}


def in_api_words(text: str) -> str:
    """Put a fault of flags into the words of the API."""
    return re.sub(r"--([a-z][a-z0-9-]*)", lambda m: f"'{m[1].replace('-', '_')}'", text)


def _first(fault: ValueError) -> str:
    errors = getattr(fault, "errors", None)
    if errors is None:
        return str(fault)
    found = errors()[0]
    return f"{'.'.join(str(p) for p in found['loc'])}: {found['msg']}"[:300]
