"""Trainings in processes that are started for them: their start, and what is said of their end."""

from __future__ import annotations

from collections.abc import Callable

import typer

from rung import launch
from rung.errors import ConfigError, ProcessLost

TOGETHER = ("tune", "resume")  # the verbs that several processes do together


def check(verb: str) -> None:
    """Refuse a verb that each process of a launch would do for itself.

    Raises:
        ConfigError: saying which verbs they do together.
    """
    found = launch.here()
    if found is not None and found.size > 1 and verb not in TOGETHER:
        raise ConfigError(
            f"{found.name} started {found.size} processes, which do {' and '.join(TOGETHER)} together: "
            f"run rung {verb} without it"
        )


def silent() -> bool:
    """Whether this process leaves it to another one to tell the user."""
    found = launch.here()
    return found is not None and not found.main


def watched() -> bool:
    """Whether the process that started this one tells the user when another one is lost."""
    found = launch.here()
    return found is not None and found.watched


def ended(
    context: typer.Context, name: str, processes: int | None, run: Callable[[], str | None]
) -> bool:
    """Start the processes of a launch, if it starts any, and wait until they have done the command.

    Args:
        context: of the command; the words of its line are its root's `obj`.
        name: of the launch. run: the id of the run that it makes, as far as it is known.

    Returns:
        False where this process does the work itself.

    Raises:
        ProcessLost: when a process was killed, saying how to go on. typer.Exit: for any other failure,
            which one of the processes has told.
    """
    try:
        code = launch.chosen(name).start(context.find_root().obj, processes)
    except ProcessLost as fault:
        known = run()
        hint = f": go on with rung resume {known}" if known else ", before its run began"
        raise ProcessLost(f"{fault}, and the training has ended with it{hint}") from None
    if code:
        raise typer.Exit(code)
    return code is not None
