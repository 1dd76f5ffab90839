"""Which rungs a ladder has: each method once, or in the variations that it names itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung import methods, objectives
from rung.config import declared
from rung.errors import ConfigError, nearest, one_line
from rung.evals import kinds
from rung.methods.base import Method
from rung.types import Modality, Task


@dataclass(frozen=True)
class Rung:
    """A method as a step of the ladder.

    Attributes:
        key: what it is called in tables and, behind the climb's name, as a model.
        settings: what sets it apart from the method's other rungs.
    """

    key: str
    method: Method
    settings: dict[str, Any] = field(default_factory=dict)


def all_rungs(
    task: Task, only: Sequence[str] = (), skip: Sequence[str] = (), reads: Modality = "text"
) -> list[Rung]:
    """Every rung for a task, by name; whether it fits is asked later, so that tables can say why not.

    Args:
        only, skip: names of methods or of single rungs.
        reads: what the base reads.

    Raises:
        ConfigError: for a name that is neither, or when nothing is left.
    """
    found = [
        Rung(_key(name, {**settings, **taught}), method, {**settings, **taught})
        for name in methods.names()
        for method in [methods.get(name).on(reads)]
        for settings in method.rungs(task)
        for taught in _objectives(method, task)
    ]
    known = {rung.key for rung in found} | set(methods.names())
    unknown = [
        f"--{flag} names '{name}'{nearest(name, known)}"
        for flag, names in (("only", only), ("skip", skip))
        for name in names
        if name not in known
    ]
    if unknown:
        raise ConfigError(one_line(unknown))
    kept = [r for r in found if not only or {r.key, r.method.name} & set(only)]
    kept = [r for r in kept if not {r.key, r.method.name} & set(skip)]
    if not kept:
        raise ConfigError("--only and --skip leave no method to try")
    return kept


def _objectives(method: Method, task: Task) -> list[dict[str, Any]]:
    """The settings of each objective by which a method is taught such a task; one that is not trained
    goes by its own."""
    if not method.trained:
        return [{}]
    wanted = kinds.of(task).wants
    every = [o for o in objectives.registry.all() if o.wants == wanted]
    return [settings for objective in every for settings in objective.rungs(method)]


def check_names(only: Sequence[str] = (), skip: Sequence[str] = ()) -> None:
    """Refuse names that are no method's and no method's rung's, before there is a task.

    Raises:
        ConfigError: naming the nearest.
    """
    known = methods.names()
    unknown = [
        f"--{flag} names '{name}'{nearest(name, known)}"
        for flag, names in (("only", only), ("skip", skip))
        for name in names
        if not any(name == method or name.startswith(f"{method}-") for method in known)
    ]
    if unknown:
        raise ConfigError(one_line(unknown))


def own_settings(method: Method, classes: Sequence[type], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given for a climb as far as this method has such knobs."""
    return declared([*classes, method.Config], given)


def _key(method: str, settings: Mapping[str, Any]) -> str:
    return "-".join([method, *(_word(k, v) for k, v in settings.items())])


def _word(name: str, value: Any) -> str:
    return name if value is True else str(value).replace("_", "-")
