"""Reinforcement jobs and graders by OpenAI's book, as Rung's objectives and rewards know them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from rung import home, rewards
from rung.errors import ConfigError
from rung.rewards.graders import check
from rung.server.errors import ApiError
from rung.server.state import Service

TYPE = "reinforcement"
OBJECTIVE = "grpo"  # what such a job trains by
ANSWERS = 8  # to each prompt, at a compute multiplier of 1
PARAM = "method.reinforcement.grader"


def checked(service: Service, grader: Any, param: str = PARAM) -> Mapping[str, Any]:
    """A client's grader, sound and allowed here.

    Raises:
        ApiError: naming the field at fault.
    """
    if grader is None:
        raise ApiError(f"'{param}' is missing: say how answers are scored", param=param)
    try:
        return check(grader, python=service.settings.python_graders)
    except ConfigError as fault:
        raise ApiError(str(fault), param=param) from None


def reward_of(service: Service, grader: Any) -> list[str]:
    """The reward that a client's grader is, kept at home by its content.

    Raises:
        ApiError: naming the field at fault.
    """
    text = json.dumps(checked(service, grader), sort_keys=True)
    path = home.folder("graders") / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
    if not path.exists():
        path.write_text(text, encoding="utf-8")
    return [f"grader:{path}"]


def hyperparameters(said: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's hyperparameters of such a job in the names of Rung's knobs; others stay as they are.

    Raises:
        ApiError: for one that cannot be heeded.
    """
    found = {k: v for k, v in said.items() if v != "auto"}
    multiplier = found.pop("compute_multiplier", 1.0)
    if not isinstance(multiplier, (int, float)) or not 0 < multiplier <= 100:
        param = "method.reinforcement.hyperparameters.compute_multiplier"
        raise ApiError("'compute_multiplier' must be above 0 and at most 100", param=param)
    if multiplier != 1:
        found["answers"] = max(2, round(ANSWERS * multiplier))
    if "eval_interval" in found:
        found["eval_every"] = found.pop("eval_interval")
    for name, usual in (("eval_samples", None), ("reasoning_effort", "default")):
        value = found.pop(name, usual)
        if value != usual:
            told = f"'{name}' is not supported here: leave it out"
            param = f"method.reinforcement.hyperparameters.{name}"
            raise ApiError(told, param=param, code="not_supported")
    return found


def safe_spec(spec: str, param: str) -> str:
    """A reward that names nothing on this machine. Raises ApiError for any other."""
    if spec in rewards.names() and not rewards.get(spec).needs_argument:
        return spec
    plain = [name for name in rewards.names() if not rewards.get(name).needs_argument]
    raise ApiError(
        f"'{param.rpartition('.')[2]}' takes one of {', '.join(plain)} here; a job of the type "
        f"'{TYPE}' takes a grader",
        param=param,
    )
