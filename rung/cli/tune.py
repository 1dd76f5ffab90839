"""`rung tune` and `rung resume`: adapt a base, and go on where a run stopped."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rung import methods, objectives
from rung.artefacts import hub
from rung.cli.flags import Given, Panel, panels_of, takes_knobs
from rung.cli.launching import ended, silent, watched
from rung.config import Knob, knobs_of, read_yaml
from rung.data.knobs import DataKnobs
from rung.train.knobs import RunKnobs, TrainKnobs

if TYPE_CHECKING:
    from rung.cli.progress import Terminal
    from rung.train.observers import Outcome

AsJson = Annotated[bool, typer.Option("--json", help="Write the result as JSON.")]


def panels(*first: tuple[str, type]) -> list[Panel]:
    """Every knob that a tuning takes, under the part it belongs to.

    Args:
        first: further dataclasses with their headings, in front.
    """
    every = [(name, methods.get(name)) for name in methods.names()]
    own = [(f"method {name}", method.Config) for name, method in every]
    own += [(f"objective {o.name}", o.Config) for o in objectives.registry.all() if knobs_of(o.Config)]
    chosen = {key for _, method in every for key in method.defaults}
    chosen |= {key for objective in objectives.registry.all() for key in objective.defaults}
    found = panels_of([*first, ("run", RunKnobs), ("data", DataKnobs), ("training", TrainKnobs), *own])
    return [
        dataclasses.replace(
            panel, knobs=[_by_method(k) if k.name in chosen else k for k in panel.knobs]
        )
        for panel in found
    ]


def _by_method(knob: Knob) -> Knob:
    """A knob as help shows it where methods have defaults of their own."""
    return dataclasses.replace(knob, default="by method")


@takes_knobs(panels())
def tune(
    called: typer.Context,
    name: Annotated[str, typer.Argument(help="What the finished model is called.")],
    given: Given,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file with the same settings; flags win.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of a model of that name.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Adapt a base to data and keep the result as a model.

    Defaults are those of the method. Ctrl-C keeps a checkpoint and says how to resume.
    """
    from rung.train.plan import Plan

    # Before torch is imported, so that a mistake is told at once.
    plan = Plan.of(name, read_yaml(config) if config else {}, given)
    if plan.run.push_to_hub:
        hub.check(plan.run.push_to_hub)
        hub.require_access()
    if ended(called, plan.run.launch, plan.run.processes, lambda: _newest(name)):
        return
    from rung.train.job import tune as run

    _report(lambda watcher: run(plan, watcher, replace=replace), as_json)


def resume(
    called: typer.Context,
    run: Annotated[
        str | None, typer.Argument(help="The run, as rung runs lists it; asked for by default.")
    ] = None,
    launch: Annotated[
        str | None, typer.Option(help="Which processes train: as the run began by default.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="How many processes the launch starts.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of a model of that name made since.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Take up what a host that is gone is said to run.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that was interrupted or killed; the result is the same.

    Without a name it shows what can be gone on with, and asks which. The number of processes may be
    another one than before.
    """
    if run is None:
        from rung.cli.resumable import runs
        from rung.cli.resumable import which as ask

        run = ask(runs(), "rung resume RUN")
    from rung.store import Store

    with Store.open() as store:
        config = store.runs.get(run).config
    launch = launch or config.get("launch") or RunKnobs.launch
    known = run
    if ended(called, launch, processes or config.get("processes"), lambda: known):
        return
    from rung.train.job import resume as go_on

    _report(lambda watcher: go_on(run, watcher, launched=launch, replace=replace, force=force), as_json)


def _newest(name: str) -> str | None:
    """The newest run of a model that can be gone on with."""
    from rung.store import Store

    with Store.open() as store:
        found = store.runs.list(model=name, limit=1)
    return found[0].id if found and found[0].status != "succeeded" else None


def _report(work: Callable[[Terminal], Outcome], as_json: bool) -> None:
    from rung.cli.progress import Terminal
    from rung.errors import Interrupted, PeerLost

    with Terminal(quiet=silent()) as terminal:
        try:
            outcome = work(terminal)
        except Interrupted as stopped:
            terminal.__exit__()
            why = "another process is gone" if isinstance(stopped, PeerLost) else "interrupted"
            if not (silent() or (isinstance(stopped, PeerLost) and watched())):
                typer.echo(f"{why}; go on with: rung resume {stopped}", err=True)
            raise typer.Exit(130) from None
        terminal.__exit__()
        if silent():
            return
        terminal.done(outcome, outcome.model.name)
    push = outcome.plan.run.push_to_hub
    if push:
        _push(outcome, push)
    if as_json:
        record: dict[str, Any] = {"model": outcome.model.name, "run": outcome.model.run}
        typer.echo(json.dumps({**record, "metrics": outcome.metrics, "cost": outcome.cost}))


def _push(outcome: Outcome, repository: str) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    typer.echo(f"uploaded to {hub.push(outcome.model.folder, repository)}", err=True)
