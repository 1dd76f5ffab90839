"""`rung make`: from a description to a model that is ready to serve."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rung.cli.flags import Given, takes_knobs
from rung.cli.tune import panels
from rung.config import flatten, knobs_of, resolve
from rung.errors import ConfigError
from rung.synthesis.knobs import SynthKnobs

if TYPE_CHECKING:
    from rung.evals.reply_loss import LossChange
    from rung.library.making import Finished

SHARED = ("seed",)  # settings that writing and training both take
# A plan to edit belongs to `rung synth`; the data is what is made.
LEFT_OUT = ("data", "plan", "validation_data", "test_data", "limit")


@takes_knobs([p.without(*LEFT_OUT) for p in panels(("synthesis", SynthKnobs))])
def make(
    name: Annotated[str, typer.Argument(help="What the finished model is called.")],
    description: Annotated[str, typer.Argument(help="What it does, in a sentence or two.")],
    given: Given,
    out: Annotated[
        Path | None, typer.Option(help="The file of rows; NAME.jsonl by default.", metavar="FILE")
    ] = None,
    bar: Annotated[
        str | None,
        typer.Option(help="Climb to the cheapest way that clears this, such as rouge_l=0.3."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of a model of that name.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the result as JSON.")] = False,
) -> None:
    """Write rows from a description, tune a model on them, and show before and after side by side.

    With --bar ways of adapting are tried from the cheapest up. Ctrl-C loses no row that was written.
    """
    own = {k.name for k in knobs_of(SynthKnobs)}
    (knobs,) = resolve([SynthKnobs], {k: v for k, v in given.items() if k in own})
    settings = {k: v for k, v in flatten(given).items() if k not in own or k in SHARED}
    from rung.cli.progress import Terminal
    from rung.cli.synth import tell, watching
    from rung.errors import Interrupted
    from rung.library import making

    request = making.Request(
        name=name, description=description, knobs=knobs, settings=settings,
        out=out or Path(f"{name}.jsonl"), command=command_of(name, description, given, out, bar),
        replace=replace,
    )  # fmt: skip
    if bar is not None:
        _climb(request, bar, as_json)
        return
    with watching() as watcher:
        rows = making.written(request, watcher)
    with Terminal() as terminal:
        try:
            finished = making.learnt(request, rows, terminal)
        except Interrupted as stopped:
            terminal.__exit__()
            typer.echo(f"interrupted; go on with: rung resume {stopped}", err=True)
            raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(plain(finished), ensure_ascii=False))
        return
    tell(finished.data, finished.rows, finished.rows.with_suffix(".md"))
    show(finished, name)


def command_of(name: str, description: str, given: Given, out: Path | None, bar: str | None) -> str:
    """The command that makes the model again."""
    from rung.cli.synth import flags_of

    own = ["--out", out.name] if out else []
    own += ["--bar", bar] if bar else []
    return shlex.join(["rung", "make", name, description, *own, *flags_of(given)])


def _climb(request: Any, bar: str, as_json: bool) -> None:
    """Write rows, then try ways of adapting from the cheapest up."""
    import rung
    from rung.cli.climb import show as table
    from rung.cli.synth import watching
    from rung.library import making

    if request.settings.get("method"):
        raise ConfigError("--bar lets a climb choose the method: leave --method out")
    with watching() as watcher:
        making.written(request, watcher)
    rest = {k: v for k, v in request.settings.items() if k not in request.data}
    card = rung.climb(
        request.out, name=request.name, replace=request.replace, bar=bar,
        **{**request.data, **rest, "data": str(request.out)},
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(card.as_dict(), ensure_ascii=False))
        return
    table(card)
    typer.echo(card.climb.verdict.get("says", ""))


def plain(finished: Finished) -> dict[str, Any]:
    """What was made, as data."""
    from rung.cli.synth import plain as of_data

    return {
        "model": finished.outcome.model.name, "data": of_data(finished.data, finished.rows),
        "system": finished.system, "change": asdict(finished.change),
        "system_change": asdict(finished.system_change) if finished.system_change else None,
        "answers": finished.answers, "metrics": finished.outcome.metrics,
        "readers": {name: dict(found) for name, found in finished.readers.items()},
        "beside": finished.beside.as_dict() if finished.beside else None,
    }  # fmt: skip


def show(finished: Finished, name: str) -> None:
    """What the model gained, in lines."""
    typer.echo("")
    if finished.system_change is not None:
        typer.echo(f"the best system message for the base: {finished.system}")
        typer.echo(f"  loss on {told(finished.system_change)}")
    typer.echo(f"{name}: loss on {told(finished.change)}")
    for prompt, answers in finished.answers.items():
        typer.echo(f"\nprompt: {prompt}")
        for title, text in answers.items():
            typer.echo(f"{title}: {' '.join(text.split())}")
    for reader, metrics in finished.readers.items():
        recall = metrics.get("retrieval_recall_at_3")
        if recall is not None:
            typer.echo(f"\n{reader}: recall@3 {recall:.2f} on {metrics['retrieval_rows']} rows")
    if finished.beside is not None:
        typer.echo("")
        for row in finished.beside.rows:
            m = row.measured
            typer.echo(f"{row.name}\t{m.metric} {m.value:.3f} [{m.low:.3f}, {m.high:.3f}]")
    typer.echo(f"\nready: rung chat {name}, or rung serve {name}")


def told(change: LossChange) -> str:
    """A change of loss in words."""
    sure = "" if change.certain else "; no difference can be shown"
    return (
        f"{change.rows} held-out rows {change.before:.3f} -> {change.after:.3f} per token "
        f"(95% interval of the change {change.low:+.3f} to {change.high:+.3f}{sure})"
    )
