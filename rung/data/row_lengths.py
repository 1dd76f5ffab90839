"""Rows that are longer than a model may see: texts are split into windows, and the user is told."""

from __future__ import annotations

from collections.abc import Sequence

from rung.data.problem import Problem, counted, places
from rung.errors import one_line
from rung.types import Rendered


def windows(row: Rendered, size: int) -> list[Rendered]:
    """Consecutive windows of a text; nothing predicts the first token of one."""
    windows = []
    for low in range(0, len(row.ids), size):
        ids = row.ids[low : low + size]
        if len(ids) > 1:
            windows.append(Rendered(ids, (False,) + (True,) * (len(ids) - 1), row.origin))
    return windows


def problems(
    long: list[str], split: list[str], refused: dict[str, list[str]], max_length: int | None
) -> list[Problem]:
    """What was done about rows that are too long (by origin), or refused (origins by the reason)."""
    problems = []
    if refused:
        reasons = [f"{places(origins)}: {why}" for why, origins in refused.items()]
        rows = tuple(origin for origins in refused.values() for origin in origins)
        problems.append(Problem("error", f"cannot be rendered: {one_line(reasons, 5)}", rows))
    if long:
        problems.append(
            Problem(
                "warning",
                f"{counted(long, 'conversation')} longer than {max_length} tokens left out "
                f"({places(long)}): raise --max-length",
                tuple(long),
            )
        )
    if split:
        problems.append(
            Problem(
                "warning",
                f"{counted(split, 'text')} longer than {max_length} tokens split "
                f"into windows ({places(split)})",
                tuple(split),
            )
        )
    return problems


def unshown(thoughtless: Sequence[str], mute: Sequence[str]) -> list[Problem]:
    """What is said of rows with something that the chat template does not show, which is not learnt.

    Args:
        thoughtless: origins of rows with thoughts. mute: of rows with text beside calls.
    """
    found = []
    if thoughtless:
        told = (
            f"{counted(thoughtless, 'row has', 'rows have')} thoughts (reasoning_content) "
            "that this base's chat "
            f"template does not show ({places(thoughtless)}): they are not learnt; write them into "
            "the content to learn them"
        )
        found.append(Problem("warning", told, tuple(thoughtless)))
    if mute:
        told = (
            f"{counted(mute, 'row has', 'rows have')} text beside calls of tools that "
            "this base's chat template does not "
            f"show ({places(mute)}): it is not learnt; give it a turn of its own to learn it"
        )
        found.append(Problem("warning", told, tuple(mute)))
    return found
