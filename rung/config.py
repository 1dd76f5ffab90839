"""Knobs: one dataclass field defines one setting, for flags, YAML, API, docs and help alike.

A part declares its settings as a dataclass of `knob(...)` fields. `resolve` merges layers (defaults,
the method's own defaults, a YAML file, flags; later ones win) into checked instances and reports
every fault at once. An unknown key is an error that names the nearest known one.

A layer may hold sections: `{"lora": {"rank": 8}}` sets `rank` of the dataclass whose `group` is `lora`
and no other, `{"rank": 8}` sets it in every dataclass that has it. `lora.rank` means the same as the
section.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rung.errors import ConfigError, nearest, one_line

K = TypeVar("K")
DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)h(?:(?:ou)?rs?)?)?(?:(\d+(?:\.\d+)?)m(?:in(?:ute)?s?)?)?"
    r"(?:(\d+(?:\.\d+)?)s(?:ec(?:ond)?s?)?)?",
    re.IGNORECASE,
)
HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")


class Duration(str):
    """A length of time as the user writes it: `90s`, `20m`, `1h30m` or `3 min`.

    Raises:
        ValueError: for any other text, a number without a unit among them, and for no time at all, in
            words that follow the knob's name.
    """

    __slots__ = ()

    def __new__(cls, text: Any) -> Duration:
        made = super().__new__(cls, text)
        if made.seconds <= 0:
            raise ValueError(f"is '{text}': {unitless(made) or 'give a time such as 90s, 20m or 1h'}")
        return made

    @property
    def seconds(self) -> float:
        parts = DURATION.fullmatch("".join(self.split())) if self.strip() else None
        found = [float(p or 0) for p in parts.groups()] if parts else []
        return sum(value * unit for value, unit in zip(found, (3600, 60, 1), strict=False))


def unitless(text: str) -> str:
    """What to write in place of a number without a unit; empty for any other text."""
    number = text.strip()
    if not re.fullmatch(r"[1-9]\d*(\.\d+)?", number):
        return ""
    return f"of what? Write {number}s, {number}m or {number}h"


def knob(
    default: Any,
    help: str,
    *,
    choices: Iterable[str] | None = None,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    metavar: str | None = None,
    names: bool = False,
    foreign: Iterable[str] = (),
    reads: str | None = None,
) -> Any:
    """Declare a dataclass field with what help and checks need.

    Args:
        default: value when nobody sets it; a list is copied for each instance.
        help: one sentence, shown in `--help` and the docs.
        choices: the only values allowed.
        least, most: inclusive bounds. above: exclusive lower bound.
        metavar: how the value is shown in help.
        names: of a list, that its texts are names, of which one text may hold several, as `lora,full`.
        foreign: names of the same setting in other libraries, which are answered with this one; with
            the value that they mean where they are switches, as `load_in_4bit=nf4`.
        reads: what a base must read for the setting to mean something, `text` or `pictures`; None:
            whatever it is.
    """
    metadata = {
        "help": help,
        "choices": tuple(choices) if choices is not None else None,
        "least": least,
        "most": most,
        "above": above,
        "metavar": metavar,
        "names": names,
        "foreign": tuple(foreign),
        "reads": reads,
    }
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Knob:
    """One setting as read off a dataclass field."""

    name: str
    type: type  # str, int, float, bool or Duration; the element type when `many`
    many: bool
    optional: bool
    default: Any
    help: str
    group: str
    choices: tuple[str, ...] | None
    least: float | None
    most: float | None
    above: float | None
    metavar: str | None
    names: bool
    foreign: tuple[str, ...]

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def bounds(self) -> str:
        """The range in words, or an empty string."""
        parts = []
        if self.above is not None:
            parts.append(f"above {_plain(self.above)}")
        if self.least is not None:
            parts.append(f"at least {_plain(self.least)}")
        if self.most is not None:
            parts.append(f"at most {_plain(self.most)}")
        return " and ".join(parts)


def _plain(bound: float) -> str:
    """A bound without an exponent where it is whole, so that it can be typed."""
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def knobs_of(cls: type) -> list[Knob]:
    """The settings a dataclass declares, in order. The group is the class's `group` attribute."""
    hints = _hints_of(cls)
    group = getattr(cls, "group", cls.__name__)
    return [_knob_of(f, hints[f.name], group) for f in dataclasses.fields(cls)]


@functools.cache
def _hints_of(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields; evaluating annotations is slow, and climbs ask many times."""
    hints = typing.get_type_hints(cls)
    hints.pop("group", None)
    return hints


def _knob_of(f: dataclasses.Field, hint: Any, group: str) -> Knob:
    optional = False
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        args = [a for a in typing.get_args(hint) if a is not type(None)]
        optional, hint = True, args[0]
    many = typing.get_origin(hint) in (list, tuple)
    if many:
        hint = typing.get_args(hint)[0]
    default = f.default_factory() if callable(f.default_factory) else f.default
    m = f.metadata
    return Knob(
        f.name, hint, many, optional, default, m["help"], group,
        m["choices"], m["least"], m["most"], m["above"], m["metavar"], m["names"], m["foreign"],
    )  # fmt: skip


def coerce(knob: Knob, value: Any) -> Any:
    """`value` as the knob's type, checked against its choices and bounds.

    Raises:
        ValueError: with what is wrong, in words that follow the knob's name.
    """
    if value is None:
        if knob.optional:
            return None
        raise ValueError("needs a value")
    if knob.many:
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if knob.names or knob.type in (int, float):  # several may stand in one text, as 0,0.5,1
            values = [p for v in values for p in (v.split(",") if isinstance(v, str) else [v])]
            values = [v.strip() if knob.names and isinstance(v, str) else v for v in values]
        return [_coerce_one(knob, v) for v in values]
    return _coerce_one(knob, value)


def _coerce_one(knob: Knob, value: Any) -> Any:
    result = _convert(knob.type, value)
    if knob.choices and result not in knob.choices:
        raise ValueError(f"is '{value}'{nearest(str(value), knob.choices)}")
    if knob.type in (int, float):
        low = knob.least is not None and result < knob.least
        shut = knob.above is not None and result <= knob.above
        high = knob.most is not None and result > knob.most
        if low or shut or high or not math.isfinite(result):
            raise ValueError(f"is {value}, must be {knob.bounds or 'finite'}")
    return result


def _convert(kind: Any, value: Any) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        word = str(value).lower()
        if word in ("true", "yes", "on", "1"):
            return True
        if word in ("false", "no", "off", "0"):
            return False
        raise ValueError(f"is '{value}', must be true or false")
    if issubclass(kind, str):
        if isinstance(value, (list, dict)):
            raise ValueError(f"is {value}, must be a text")  # noqa: TRY004
        return kind(str(value).lower() if isinstance(value, bool) else value)
    if isinstance(value, bool):
        raise ValueError(f"is {value}, must be a number")  # noqa: TRY004
    try:
        if isinstance(value, str) and HEXADECIMAL.fullmatch(value):
            value = int(value, 0)
        return _whole(value) if kind is int else kind(value)
    except (TypeError, ValueError, OverflowError):
        words = {int: "a whole number", float: "a number"}
        raise ValueError(f"is '{value}', must be {words.get(kind, kind.__name__)}") from None


def _whole(value: Any) -> int:
    """A whole number, exact however large it is; `3.0` is one too. Raises ValueError and the like."""
    try:
        return int(str(value))
    except ValueError:
        if float(value) != int(float(value)):
            raise
        return int(float(value))


def flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write sections as dotted names, and dashes in names as underscores.

    `{"lora": {"rank": 8}, "max-length": 64}` becomes `{"lora.rank": 8, "max_length": 64}`.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            for name, one in (value or {"": None}).items():  # an empty section is checked too
                flat[f"{key}.{name}".replace("-", "_")] = one
        else:
            flat[str(key).replace("-", "_")] = value
    return flat


class Names:
    """The names of the settings that some dataclasses declare, plain and with their section."""

    def __init__(self, classes: Iterable[type[Any]]):
        self.knobs = [k for c in classes for k in knobs_of(c)]
        self.sections = {k.group for k in self.knobs}

    def find(self, key: str) -> list[Knob]:
        """The settings that a key of `flatten` means; none where it is unknown."""
        section, _, name = key.rpartition(".")
        return [k for k in self.knobs if k.name == name and section in ("", k.group)]

    def problems(self, flat: Mapping[str, Any]) -> list[str]:
        """What is wrong with the keys of one layer: unknown ones, and settings named twice."""
        found = []
        for key in flat:
            section, _, name = key.rpartition(".")
            if not self.find(key) and (name or section not in self.sections):
                found.append(self._unknown(section, name))
            elif section and name in flat:
                found.append(f"'{name}' is set twice, alone and in section '{section}': keep one")
        return found

    def _unknown(self, section: str, name: str) -> str:
        if not section and name in self.sections:
            return f"'{name}' is a section: write its settings below it"
        if not section:
            return f"unknown setting '{name}'{self.hint(name)}"
        if section in self.sections:
            own = [k.name for k in self.knobs if k.group == section]
            return f"unknown setting '{name}' in section '{section}'{self.hint(name, own)}"
        if self.find(section):
            return f"'{section}' is a setting and no section: give it one value"
        return f"unknown section '{section}'{nearest(section, self.sections)}"

    def hint(self, name: str, known: Iterable[str] | None = None) -> str:
        """What to write in place of an unknown name, as the end of a sentence."""
        meant = abroad(name, self.knobs)
        if meant:
            knob, value = meant
            return f", here {knob.name}{f': {value}' if value else ''} ({knob.help})"
        return nearest(name, known or [k.name for k in self.knobs])


def bare(key: str) -> str:
    """Return the name of a setting without its section, of a key of `flatten`."""
    return key.rpartition(".")[2]


def declared(classes: Iterable[type[Any]], flat: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the settings that some dataclasses declare, of a mapping as `flatten` gives it."""
    names = Names(classes)
    return {key: value for key, value in flat.items() if names.find(key)}


def abroad(name: str, knobs: Iterable[Knob]) -> tuple[Knob, str] | None:
    """The setting that another library calls `name`, and the value that it means there, if any."""
    wanted = name.replace("-", "_").lower()
    for knob in knobs:
        for word in knob.foreign:
            theirs, _, value = word.partition("=")
            if theirs == wanted:
                return knob, value
    return None


def resolve(classes: Iterable[type[Any]], *layers: Mapping[str, Any]) -> list[Any]:
    """Build one instance of each dataclass from layers of {knob name: value}, the last one winning.

    A name that several classes declare is set in each, unless it is in a section.

    Raises:
        ConfigError: naming every unknown key (with the nearest known one) and every bad value.
    """
    classes = list(classes)
    names = Names(classes)
    merged: dict[tuple[str, str], Any] = {}
    problems: list[str] = []
    for layer in layers:
        flat = flatten(layer)
        problems += names.problems(flat)
        merged |= {(k.group, k.name): value for key, value in flat.items() for k in names.find(key)}
    built = []
    for cls in classes:
        values = {}
        for k in knobs_of(cls):
            if (k.group, k.name) in merged:
                try:
                    values[k.name] = coerce(k, merged[k.group, k.name])
                except ValueError as fault:
                    problems.append(f"{k.flag} {fault}")
        if not problems:
            built.append(cls(**values))
    if problems:
        raise ConfigError(one_line(list(dict.fromkeys(problems))))
    return built


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of knobs, its sections as dotted names (see `flatten`).

    A value means what the same text means behind a flag: `no` is a text wherever a text is wanted,
    `1e-4` a number, and `010` ten.

    Raises:
        ConfigError: when the file is missing, is not YAML, is not a mapping, or names a knob twice.
    """
    import yaml

    from rung.yaml_text import Loader

    try:
        # Built upon the library's safe loader: it makes plain values and nothing else.
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=Loader)  # noqa: S506
    except OSError as fault:
        raise ConfigError(f"cannot read {path}: {fault.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8: save the file as UTF-8") from None
    except (yaml.YAMLError, RecursionError, ValueError) as fault:
        raise ConfigError(_yaml_fault(path, fault)) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold 'name: value' lines")
    return flatten(content)


def _yaml_fault(path: str | Path, fault: Exception) -> str:
    """What the parser found, and the line where it has one."""
    mark = getattr(fault, "problem_mark", None)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    return f"{where}: not YAML ({getattr(fault, 'problem', None) or fault})"


def as_dict(knobs: Any) -> dict[str, Any]:
    """A knob dataclass as plain data, for a file."""
    return dataclasses.asdict(knobs)
