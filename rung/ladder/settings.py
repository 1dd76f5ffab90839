"""The settings of a climb, checked before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung import methods
from rung.config import Names, bare, coerce, declared, flatten, resolve
from rung.data.knobs import DataKnobs
from rung.errors import ConfigError, one_line
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.rungs import check_names
from rung.train.knobs import RunKnobs, TrainKnobs

GENERAL = (ClimbKnobs, RunKnobs, DataKnobs, TrainKnobs)
FIXED = ("method", "objective", "parent", "push_to_hub")  # what a climb decides, or has no use for


def settle(*layers: Mapping[str, Any]) -> tuple[ClimbKnobs, dict[str, Any]]:
    """Split settings into the climb's own and those of its rungs.

    Args:
        layers: settings by name, in sections or without; a later layer wins.

    Returns:
        the climb's knobs, and the rest by name. A method's own setting keeps its section, if it has
        one, so that no other method takes it.

    Raises:
        ConfigError: naming every unknown key and bad value.
    """
    names = Names([*GENERAL, *(methods.get(name).Config for name in methods.names())])
    merged: dict[str, Any] = {}
    problems: list[str] = []
    for layer in layers:
        flat = flatten(layer)
        problems += names.problems(flat)
        for key, value in flat.items():
            merged = _put(merged, key, value)
    for key, value in merged.items():
        problems += _faults(names, key, value)
    if problems:
        raise ConfigError(one_line(list(dict.fromkeys(problems))))
    own = declared([ClimbKnobs], merged)
    (knobs,) = resolve([ClimbKnobs], own)
    check_names(knobs.only, knobs.skip)
    if knobs.bar is not None:
        from rung.ladder.bar import Bar

        Bar.parse(knobs.bar)
    return knobs, {key: value for key, value in merged.items() if key not in own}


def _put(merged: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Add a setting. One that stands for all methods replaces what earlier layers said to each."""
    section, _, name = key.rpartition(".")
    if section and section not in {cls.group for cls in GENERAL}:
        return {**merged, key: value}
    return {**{k: v for k, v in merged.items() if bare(k) != name}, name: value}


def _faults(names: Names, key: str, value: Any) -> list[str]:
    """What is wrong with the value of a known setting."""
    for knob in names.find(key)[:1]:
        if knob.name in FIXED:
            return [f"'{knob.name}' is no setting of a climb (--only METHOD tries one method alone)"]
        try:
            coerce(knob, value)
        except ValueError as fault:
            return [f"{knob.flag} {fault}"]
    return []
