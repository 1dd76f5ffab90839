"""Rewards: how good an answer is, one file each, found by its name or an entry point of `rung.rewards`.

A spec is `NAME`, `NAME:ARGUMENT`, or a YAML file that lists specs with weights:

    number    regex:^Yes    length:200    model:judge    python:scoring.py:polite    mix.yaml
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rung.config import knob
from rung.errors import ConfigError, DataError
from rung.registry import Registry
from rung.rewards.base import Answer, Context, Reward, Scorer

__all__ = [
    "Answer", "Context", "Reward", "Scorer", "check", "comparing", "get", "make", "names", "registry",
    "scored", "specs_knob",
]  # fmt: skip

registry: Registry[Reward] = Registry("rung.rewards", "Reward", "reward")
names, get = registry.names, registry.get
FILES = (".yaml", ".yml")


def specs_knob() -> Any:
    """The knob that says what answers are scored by."""
    return knob(
        [], "What answers are scored by; give it again to add rewards up.", metavar="SPEC",
        foreign=("reward_funcs", "reward_model_path", "reward_fn"),
    )  # fmt: skip


def make(specs: Sequence[str], context: Context | None = None) -> Reward:
    """The reward that specs describe; of several, the sum.

    Raises:
        ConfigError: for an unknown name, with the nearest, or an argument that does not fit.
    """
    from rung.rewards.weighted import Weighted

    context = context or Context()
    check(specs)
    made = [_one(spec, context) for spec in specs]
    return made[0] if len(made) == 1 else Weighted([(one, 1.0) for one in made])


def check(specs: Sequence[str]) -> None:
    """Refuse specs that cannot be meant, without making anything of them.

    Raises:
        ConfigError: for none at all, an unknown name, or a file that is not there.
    """
    if not specs:
        raise ConfigError(f"--reward is missing: name one of {', '.join(names())}, or a YAML file")
    for spec in specs:
        if Path(spec).suffix in FILES and ":" not in spec:
            if not Path(spec).is_file():
                raise ConfigError(f"--reward: no file '{spec}'")
            continue
        name, _, argument = spec.partition(":")
        try:
            get(name).check_argument(argument)
        except ConfigError as fault:
            raise ConfigError(f"--reward: {fault}") from None


def _one(spec: str, context: Context) -> Reward:
    from rung.rewards.weighted import Weighted

    if Path(spec).suffix in FILES and ":" not in spec:
        return Weighted.read(Path(spec), lambda inner: _one(inner, context))
    name, _, argument = spec.partition(":")
    try:
        return get(name).configured(argument, context)
    except ConfigError as fault:
        raise ConfigError(f"--reward: {fault}") from None


def scored(reward: Reward, answers: Sequence[Answer]) -> list[float | None]:
    """Score answers, and refuse what is no finite figure.

    Raises:
        DataError: naming the reward, for a figure that is not finite or a list of another length.
    """
    found = reward.score(answers)
    if len(found) != len(answers):
        raise DataError(f"reward {reward.name} gave {len(found)} figures for {len(answers)} answers")
    for value in found:
        if value is not None and not math.isfinite(value):
            raise DataError(f"reward {reward.name} gave {value}: it must be finite, or None")
    return found


def comparing(reward: Reward) -> list[str]:
    """Names of the rewards, of a sum each part, that compare with the answer that the data gives."""
    from rung.rewards.weighted import Weighted

    parts = [part for part, _ in reward.parts] if isinstance(reward, Weighted) else [reward]
    return [part.name for part in parts if part.needs_gold]
