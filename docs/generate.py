"""Fill the parts of the docs that follow from the code: flags of verbs, knobs and defaults of methods.

A page marks the place, and what stands between the marks is rewritten:

    <!-- flags -->      ... <!-- /flags -->        in docs/verbs/VERB.md
    <!-- knobs -->      ... <!-- /knobs -->        in docs/methods/METHOD.md
    <!-- defaults -->   ... <!-- /defaults -->     in docs/verbs/tune.md
    <!-- contract: NAMES --> ... <!-- /contract -->  in docs/*.md: signatures (docs/contracts.py)
    <!-- files: FOLDERS --> ... <!-- /files -->      in docs/*.md: what each module says of itself

    python docs/generate.py            # rewrite
    python docs/generate.py --check    # only name the pages that are out of date

tests/test_docs.py runs the check.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.models import OptionInfo

from rung import methods
from rung.cli import VERBS
from rung.config import Knob, knobs_of
from rung.train.knobs import TrainKnobs

DOCS = Path(__file__).resolve().parent
MARKED = re.compile("<!-- (contract|files): ")  # pages that docs/contracts.py fills
DEFAULTS_SHOWN = ("lr", "epochs", "batch_size")


def pages() -> dict[Path, dict[str, str]]:
    """Every page with generated parts, and those parts by the name of their mark."""
    found = {DOCS / "verbs" / f"{verb}.md": {"flags": flags(verb)} for verb in VERBS}
    found[DOCS / "verbs" / "tune.md"]["defaults"] = defaults()
    for name in own_methods():
        found[DOCS / "methods" / f"{name}.md"] = {"knobs": knobs(name)}
    return found


def contracts() -> Any:
    """The module beside this file, wherever Python was started."""
    spec = importlib.util.spec_from_file_location("contracts", DOCS / "contracts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own_methods() -> list[str]:
    """The methods of this repository, without those of other packages that are installed."""
    folder = Path(methods.__file__).parent
    return [n for n in methods.names() if (folder / f"{n}.py").exists() or (folder / n).is_dir()]


def begun(name: str) -> str:
    """The first words of a method's page."""
    method = methods.get(name)
    paper = (
        f" [{method.paper}](https://arxiv.org/abs/{method.paper.split()[-1]})." if method.paper else ""
    )
    return (
        f"# {name}\n\n{method.summary[0].upper()}{method.summary[1:]}.{paper}\n\n"
        "## When to take it\n\n## What it costs\n\n## Knobs\n\n<!-- knobs -->\n<!-- /knobs -->\n"
    )


def filled(text: str, parts: dict[str, str]) -> str:
    """The page with what stands between its marks replaced.

    Raises:
        ValueError: when a mark is missing.
    """
    for name, part in parts.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not between.search(text):
            raise ValueError(f"no <!-- {name} --> ... <!-- /{name} -->")
        text = between.sub(lambda m, part=part: m[1] + "\n" + part + "\n" + m[2], text)  # type: ignore
    return text


@dataclass
class Flag:
    """One option of a verb, as its help shows it."""

    names: list[str]
    value: str
    meaning: str
    heading: str


def flags_of(verb: str) -> list[Flag]:
    """The verb's options in the order of its help, without --help."""
    module, function = VERBS[verb]
    signature = inspect.signature(
        getattr(importlib.import_module(f"rung.cli.{module}"), function), eval_str=True
    )
    found = []
    for parameter in signature.parameters.values():
        kind, *notes = typing.get_args(parameter.annotation) or (None, None)  # typer's own context
        option = notes[-1]
        if not isinstance(option, OptionInfo):
            continue  # an argument
        default = parameter.default
        # In Annotated, typer keeps the first spelling where a default would stand.
        spelled = [option.default] if isinstance(option.default, str) else []
        names = [n for d in [*spelled, *(option.param_decls or ())] for n in d.split("/")]
        if not names:
            long = "--" + parameter.name.replace("_", "-")
            names = [long, f"--no-{long[2:]}"] if kind is bool and default is not None else [long]
        meaning = option.help or ""
        if not isinstance(default, bool) and isinstance(default, (str, int, float)):
            meaning += f" (default {default})"
        if option.envvar:
            meaning += f" Also `{option.envvar}` in the environment."
        value = "" if _inner(kind) is bool else option.metavar or _word(_inner(kind))
        found.append(Flag(names, value, meaning, option.rich_help_panel or ""))
    return found


def flags(verb: str) -> str:
    """A table for each heading of the verb's help."""
    panels: dict[str, list[Flag]] = {}
    for flag in flags_of(verb):
        panels.setdefault(flag.heading, []).append(flag)
    if not panels:
        return "This verb has no flags.\n"
    tables = []
    for heading, group in panels.items():
        rows = [(f"`{', '.join(f.names)} {f.value}".rstrip() + "`", f.meaning) for f in group]
        title = f"**{heading}**\n\n" if heading else ""
        tables.append(title + _table(("flag", "meaning"), rows))
    return "\n".join(tables)


def _inner(kind: Any) -> Any:
    """The type of one value: without None, and of a list its element."""
    inner = [t for t in typing.get_args(kind) if t is not type(None)]
    return _inner(inner[0]) if inner else kind


def _word(kind: Any) -> str:
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


def knobs(name: str) -> str:
    """A method's own knobs, and what it sets of the training's."""
    method = methods.get(name)
    rows = [(f"`{k.flag}`", _value(k), _told(k)) for k in knobs_of(method.Config)]
    text = _table(("knob", "default", "meaning"), rows) if rows else "No knobs of its own.\n"
    general = {k.name: k for k in knobs_of(TrainKnobs)}
    chosen = ", ".join(f"`{general[k].flag} {v:g}`" for k, v in method.defaults.items())
    return text + (f"\nIts training defaults: {chosen}.\n" if chosen else "")


def defaults() -> str:
    """The training knobs that methods set, a row for each method."""
    general = {k.name: k for k in knobs_of(TrainKnobs)}
    every = [methods.get(name) for name in own_methods()]
    set_somewhere = {key for method in every for key in method.defaults}
    shown = [k for k in general if k in set_somewhere or k in DEFAULTS_SHOWN]
    rows = [
        [f"[{m.name}](../methods/{m.name}.md)"]
        + [_text(m.defaults.get(key, general[key].default)) for key in shown]
        for m in every
    ]
    return _table(("method", *(f"`{general[k].flag}`" for k in shown)), rows)


def _told(knob: Knob) -> str:
    notes = [knob.bounds] if knob.bounds else []
    if knob.choices:
        notes.append("one of " + ", ".join(knob.choices))
    return f"{knob.help} ({'; '.join(notes)})" if notes else knob.help


def _value(knob: Knob) -> str:
    return " ".join(map(_text, knob.default)) if knob.many else _text(knob.default)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head)]
    lines.append(["---"] * len(lines[0]))
    lines += [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)


def main(check: bool) -> int:
    """Rewrite the pages, or only compare them; returns an exit code."""
    stale = []
    printed = {p: {} for p in sorted(DOCS.glob("*.md")) if MARKED.search(p.read_text("utf-8"))}
    for path, parts in {**printed, **pages()}.items():
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if not text and not check and path.parent.name == "methods":
            text = begun(path.stem)
            path.write_text(text, encoding="utf-8")
        try:
            fresh = contracts().filled(filled(text, parts))
        except ValueError as fault:
            print(f"{path.relative_to(DOCS.parent)}: {fault}", file=sys.stderr)
            stale.append(path)
            continue
        if fresh != text:
            if check:
                print(f"{path.relative_to(DOCS.parent)}: out of date", file=sys.stderr)
                stale.append(path)
            else:
                path.write_text(fresh, encoding="utf-8")
                print(f"wrote {path.relative_to(DOCS.parent)}")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
