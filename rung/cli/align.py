"""`rung align`: demonstrations, a reward model, and training by its rewards, as one lineage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rung.cli.flags import Given, panels_of, takes_knobs
from rung.config import read_yaml, resolve
from rung.library.knobs import STAGES, AlignKnobs


@takes_knobs(panels_of([("alignment", AlignKnobs)]))
def align(
    name: Annotated[str, typer.Argument(help="What the aligned model is called.")],
    given: Given,
    config: Annotated[
        Path | None,
        typer.Option(help="A YAML file with these settings, and a section for each stage."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Make every stage anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write the result as JSON.")] = False,
) -> None:
    """Align a base: imitate demonstrations, learn what is preferred, then train by that reward.

    Stages that are there already are taken as they are, so that Ctrl-C loses nothing: say it again.
    """
    own, sections = _parted(read_yaml(config) if config else {})
    (knobs,) = resolve([AlignKnobs], own, given)
    from rung.cli.progress import Terminal
    from rung.errors import Interrupted
    from rung.library.alignment import align as work

    shown: list[Terminal] = []

    def terminal() -> Terminal:
        for one in shown:
            one.__exit__()
        shown.append(Terminal())
        return shown[-1].__enter__()

    try:
        found = work(name, knobs, sections, terminal, replace)
    except Interrupted:
        without = ", without --replace" if replace else ""
        typer.echo(
            f"interrupted; go on with the same command{without}: rung align {name} ...", err=True
        )
        raise typer.Exit(130) from None
    finally:
        for one in shown:
            one.__exit__()
    if as_json:
        plain = [
            {"stage": s.stage, "model": s.model.name, "made": s.made, "metrics": dict(s.metrics)}
            for s in found
        ]
        typer.echo(json.dumps(plain))
        return
    for stage in found:
        typer.echo(f"{stage.stage}\t{stage.model.name}\t{_figure(stage.metrics)}")


def _parted(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Settings of alignment, and those of each stage's section."""
    own: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, name = key.partition(".")
        if name and section in STAGES:
            sections.setdefault(section, {})[name] = value
        else:
            own[key] = value
    return own, sections


def _figure(metrics: Any) -> str:
    """What a stage gained, on rows that it never trained on."""
    for name in ("reward", "reward_accuracy", "loss"):
        after, before = metrics.get(f"test_{name}"), metrics.get(f"test_{name}_of_base")
        if after is not None and before is not None:
            return f"test {name} {before:.3f} -> {after:.3f}"
    return ""
