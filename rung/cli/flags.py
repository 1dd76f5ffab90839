"""Flags out of knobs: a command takes one option for every field of some dataclasses.

All values arrive as text, so that `rung.config` checks flags, YAML and API alike and names every
fault at once. Help shows the panels that are always of use and those of the chosen method and
objective; `--help-all` shows every panel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from rung.config import Duration, Knob, knobs_of
from rung.errors import ConfigError

Given = dict[str, Any]

HELP_ALL = "--help-all"


@dataclass(frozen=True)
class Panel:
    """A heading of help and the knobs below it.

    Attributes:
        choice: the setting on which it depends whether help shows them, such as `method`; "": none.
        names: values of that setting with which it does.
    """

    heading: str
    knobs: list[Knob]
    choice: str = ""
    names: frozenset[str] = frozenset()

    def without(self, *names: str) -> Panel:
        """Leave out knobs that a command takes as arguments, or has no use for."""
        return dataclasses.replace(self, knobs=[k for k in self.knobs if k.name not in names])


def panels_of(parts: Iterable[tuple[str, type]]) -> list[Panel]:
    """Put knobs under headings; a knob of several classes is listed once, under all their names.

    Args:
        parts: (heading, dataclass) pairs. A heading of two words, such as `method lora`, is shown
            only with that choice; a knob that stands under another, too, is listed there alone.
    """
    owners: dict[str, list[str]] = {}
    first: dict[str, Knob] = {}
    for heading, cls in parts:
        for knob in knobs_of(cls):
            owners.setdefault(knob.name, []).append(heading)
            first.setdefault(knob.name, knob)
    grouped: dict[tuple[str, ...], list[Knob]] = {}
    for name, headings in owners.items():
        general = [heading for heading in headings if " " not in heading]
        grouped.setdefault(tuple(general or headings), []).append(first[name])
    return [_panel(headings, knobs) for headings, knobs in grouped.items()]


def _panel(headings: Sequence[str], knobs: list[Knob]) -> Panel:
    """One panel for headings that share knobs: `method a`, `method b` become `methods a, b`."""
    kinds = {heading.partition(" ")[0] for heading in headings}
    names = [heading.partition(" ")[2] for heading in headings]
    if len(kinds) > 1 or not all(names):
        return Panel(", ".join(headings), knobs)
    (kind,) = kinds
    plural = "s" if len(names) > 1 else ""
    return Panel(f"{kind}{plural} {', '.join(names)}", knobs, kind, frozenset(names))


def takes_knobs(panels: Sequence[Panel]) -> Callable[[Callable], Callable]:
    """Add options to a command. It receives those that were given as its `given` argument."""

    def decorate(command: Callable) -> Callable:
        own = [
            p for n, p in inspect.signature(command, eval_str=True).parameters.items() if n != "given"
        ]
        flags = [_parameter(k, panel.heading) for panel in panels for k in panel.knobs]
        names = {p.name for p in flags}
        more = [_help_all()] if any(panel.choice for panel in panels) else []

        def wrapped(**values: Any) -> Any:
            values.pop("help_all", None)
            given = {n: values.pop(n) for n in list(values) if n in names}
            kept = {n: v for n, v in given.items() if v is not None and v != []}
            return command(**values, given=kept)

        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        signature = inspect.Signature([*own, *more, *flags])
        wrapped.__signature__ = signature  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        wrapped.panels = panels  # type: ignore[attr-defined]
        return wrapped

    return decorate


def _help_all() -> inspect.Parameter:
    """The switch that shows every panel."""

    def show(context: typer.Context, value: bool) -> None:
        if value:
            typer.echo(context.get_help(), nl=False)
            raise typer.Exit

    option = typer.Option(
        HELP_ALL,
        help="Show this message with the options of every method and objective.",
        is_eager=True,
        callback=show,
    )
    return inspect.Parameter(
        "help_all", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option]
    )


def hide_others(command: Any, panels: Sequence[Panel], words: Sequence[str]) -> None:
    """Leave what only other methods and objectives take out of a command's help.

    Args:
        command: click's command of the verb. words: what follows the verb.
    """
    if HELP_ALL in words:
        return
    chosen = _chosen(words)
    hidden = {
        knob.name
        for panel in panels
        if panel.choice and not panel.names & set(chosen[panel.choice])
        for knob in panel.knobs
    }
    for param in command.params:
        if param.name in hidden:
            param.hidden = True


def _chosen(words: Sequence[str]) -> dict[str, list[str]]:
    """The methods and objectives that a command line, or the file it names, asks for; else the usual.

    A climb chooses methods by `--only`.
    """
    from rung.train.knobs import RunKnobs

    said: dict[str, list[str]] = {}
    for at, word in enumerate(words):
        flag, _, value = word.partition("=")
        said.setdefault(flag, []).append(value or (words[at + 1] if at + 1 < len(words) else ""))
    for path in said.get("--config", []):
        with contextlib.suppress(ConfigError):
            _read_choices(path, said)
    usual = {"method": RunKnobs.method, "objective": RunKnobs.objective}
    methods = [*said.get("--method", []), *said.get("--only", [])]
    chosen = {"method": methods, "objective": said.get("--objective", [])}
    return {choice: names or [usual[choice]] for choice, names in chosen.items()}


def _read_choices(path: str, said: dict[str, list[str]]) -> None:
    """Add what a file of settings chooses, where flags choose nothing. Raises ConfigError."""
    from rung.config import read_yaml

    for key, value in read_yaml(path).items():
        flag = f"--{key.rpartition('.')[2]}"
        if flag in ("--method", "--objective", "--only"):
            said.setdefault(flag, list(value) if isinstance(value, list) else [str(value)])


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
