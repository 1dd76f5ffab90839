"""Inputs made from knobs: what is a flag on the command line is a field here, declared once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nicegui import ui

from rung.config import Knob


class Fields:
    """Inputs for knobs. What is left empty keeps its default, which the field shows.

    Args:
        usual: defaults other than the knobs' own.
    """

    def __init__(self, knobs: Iterable[Knob], usual: Mapping[str, Any] | None = None):
        self._knobs = list(knobs)
        with ui.element("div").classes("fields"):
            self._inputs = {
                k.name: _input(k, (usual or {}).get(k.name, k.default)) for k in self._knobs
            }

    def given(self) -> dict[str, Any]:
        """What was filled in, by knob; lists are split at commas."""
        found: dict[str, Any] = {}
        for knob in self._knobs:
            value = self._inputs[knob.name].value
            if value is None or value == "":
                continue
            found[knob.name] = [v.strip() for v in value.split(",")] if knob.many else value
        return found

    def fill(self, given: Mapping[str, Any]) -> None:
        """Show what `given` gave; inputs of other knobs are emptied."""
        for knob in self._knobs:
            value = given.get(knob.name)
            if isinstance(value, (list, tuple)):
                value = ", ".join(map(str, value))
            self._inputs[knob.name].set_value(value)


def _input(knob: Knob, usual: Any) -> Any:
    made: Any
    label = knob.name.replace("_", " ")
    if knob.choices or knob.type is bool:
        options: Any = {True: "yes", False: "no"} if knob.type is bool else list(knob.choices or ())
        default = f" ({_shown(usual)})" if usual is not None else ""
        made = ui.select(options, label=label + default, clearable=True, value=None)
        made.props("outlined dense options-dense")
    elif knob.type in (int, float) and not knob.many:
        # No bounds here: they would change what was typed when the field is left; the API refuses it.
        made = ui.number(label, placeholder=_shown(usual))
        made.props("outlined dense stack-label clearable")
    else:
        made = ui.input(label, placeholder=_shown(usual)).props("outlined dense stack-label clearable")
    return made.props(f'hint="{attribute(knob.help)}"').classes("field")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def attribute(text: str) -> str:
    """Text as the value of a prop in quotation marks."""
    return text.replace('"', "'")
