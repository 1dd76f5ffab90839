"""Flags out of knobs: a command takes one option for every field of some dataclasses.

All values arrive as text, so that `rung.config` checks flags, YAML and API alike and names every
fault at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from rung.config import Duration, Knob, knobs_of

Given = dict[str, Any]


def knobs_by_panel(panels: Iterable[tuple[str, type]]) -> dict[str, list[Knob]]:
    """Knobs under the headings of help; a knob of several classes stands once, under all their names.

    Args:
        panels: (heading, dataclass) pairs.
    """
    owners: dict[str, list[str]] = {}
    first: dict[str, Knob] = {}
    for heading, cls in panels:
        for knob in knobs_of(cls):
            owners.setdefault(knob.name, []).append(heading)
            first.setdefault(knob.name, knob)
    grouped: dict[str, list[Knob]] = {}
    for name, headings in owners.items():
        grouped.setdefault(_joined(headings), []).append(first[name])
    return grouped


def _joined(headings: list[str]) -> str:
    """Headings as one: `method a`, `method b` become `methods a, b`."""
    kinds = {heading.partition(" ")[0] for heading in headings}
    if len(headings) == 1 or len(kinds) > 1:
        return ", ".join(headings)
    return f"{kinds.pop()}s {', '.join(heading.partition(' ')[2] for heading in headings)}"


def takes_knobs(panels: dict[str, list[Knob]]) -> Callable[[Callable], Callable]:
    """Add options to a command. It receives those that were given as its `given` argument."""

    def decorate(command: Callable) -> Callable:
        own = [
            p for n, p in inspect.signature(command, eval_str=True).parameters.items() if n != "given"
        ]
        flags = [_parameter(k, panel) for panel, knobs in panels.items() for k in knobs]
        names = {p.name for p in flags}

        def wrapped(**values: Any) -> Any:
            given = {n: values.pop(n) for n in list(values) if n in names}
            kept = {n: v for n, v in given.items() if v is not None and v != []}
            return command(**values, given=kept)

        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        signature = inspect.Signature([*own, *flags])
        wrapped.__signature__ = signature  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return wrapped

    return decorate


def without(knobs: list[Knob], *names: str) -> list[Knob]:
    """Knobs but for those that a command takes as arguments."""
    return [k for k in knobs if k.name not in names]


def _parameter(knob: Knob, panel: str) -> inspect.Parameter:
    kind: Any = str
    if knob.type is bool and not knob.many:
        kind = bool
    elif knob.many:
        kind = list[str]
    option = typer.Option(
        _names(knob, kind),
        help=_help(knob),
        metavar=None if kind is bool else knob.metavar or _metavar(knob),
        rich_help_panel=panel,
        show_default=False,
    )
    return inspect.Parameter(
        knob.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _names(knob: Knob, kind: Any) -> str:
    return f"{knob.flag}/--no-{knob.flag[2:]}" if kind is bool else knob.flag


def _metavar(knob: Knob) -> str:
    if knob.choices:
        return "|".join(knob.choices)
    return {int: "N", float: "X", Duration: "TIME"}.get(knob.type, "TEXT")


def _help(knob: Knob) -> str:
    """The knob's own words, its range and its default."""
    notes = [knob.bounds] if knob.bounds and knob.type is int else []
    if knob.default not in (None, False, "") and knob.default != []:
        shown = " ".join(map(str, knob.default)) if knob.many else knob.default
        notes.append(f"default {shown:g}" if isinstance(shown, float) else f"default {shown}")
    return f"{knob.help} ({', '.join(notes)})" if notes else knob.help
