"""The command line: `rung VERB ...`, one module per verb.

A user's mistake is one line on stderr and exit code 2; Ctrl-C is exit code 130. Anything that shows a
traceback is a bug in Rung.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any

import typer

from rung import process

if TYPE_CHECKING:
    from rung.cli.flags import Panel

# verb -> (module, function); a module is imported only when its verb is asked for.
VERBS = {
    "climb": ("climb", "climb"),
    "plan": ("plan", "plan"),
    "board": ("board", "board"),
    "make": ("make", "make"),
    "synth": ("synth", "synth"),
    "tune": ("tune", "tune"),
    "resume": ("tune", "resume"),
    "align": ("align", "align"),
    "redteam": ("redteam", "redteam"),
    "eval": ("eval", "eval_"),
    "compare": ("compare", "compare"),
    "map": ("map", "map_"),
    "chat": ("chat", "chat"),
    "serve": ("serve", "serve"),
    "keys": ("keys", "keys"),
    "add": ("add", "add"),
    "models": ("models", "models"),
    "show": ("models", "show"),
    "remove": ("models", "remove"),
    "runs": ("models", "runs"),
    "status": ("status", "status"),
    "data": ("data", "data"),
    "bases": ("bases", "bases"),
    "measure": ("measure", "measure"),
    "export": ("export", "export"),
}


def app(verbs: list[str] | None = None, *, summary: bool = False) -> typer.Typer:
    """The commands, or only those named.

    Args:
        summary: give each command its help alone, read from its module without importing it.
    """
    from rung.version import __version__

    built = typer.Typer(
        name="rung",
        help="Adapt a foundation model, measure what it gained, serve every result from one base.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )

    def show_version(value: bool) -> None:
        if value:
            typer.echo(f"rung {__version__}")
            raise typer.Exit

    @built.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", callback=show_version, is_eager=True, help="Print the version."
        ),
    ) -> None: ...

    for verb in verbs or VERBS:
        built.command(verb)(_described(verb) if summary else _function(verb))
    return built


def _described(verb: str) -> Callable:
    """A function that has the docstring of a verb's, and takes nothing.

    `rung --help` shows no flag: to import 25 modules and define their flags took half of its time.
    """
    module, function = VERBS[verb]
    text = resources.files(__name__).joinpath(f"{module}.py").read_text(encoding="utf-8")
    defined = (n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef))
    found = next(n for n in defined if n.name == function)

    def described() -> None: ...

    described.__doc__ = ast.get_docstring(found)
    return described


def _function(verb: str) -> Callable:
    module, function = VERBS[verb]
    return getattr(importlib.import_module(f"rung.cli.{module}"), function)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its code."""
    process.start_command()
    arguments = sys.argv[1:] if arguments is None else arguments
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (stays open until the end)
    # What a terminal of another encoding cannot show must not end the work.
    getattr(sys.stdout, "reconfigure", lambda **_: None)(errors="replace")
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    from rung.cli import launching, usage
    from rung.errors import RungError

    command = None
    try:
        usage.check_verb(arguments, VERBS)
        if arguments and arguments[0] in VERBS:
            launching.check(arguments[0])
        arguments = usage.filled(arguments)
        command = _command(arguments)
        result = command(arguments, standalone_mode=False, prog_name="rung", obj=arguments)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except RungError as fault:
        return fault.exit_code if launching.silent() else _complain(str(fault), fault.exit_code)
    except typer.Abort:
        return 130
    except KeyboardInterrupt:
        print("\nrung: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read us is gone: nothing is left to say, not even what the buffer still holds.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as fault:
        _drop_output(fault)
        return _complain(usage.of_system(fault), 1)
    except Exception as fault:
        if not usage.is_usage(fault):
            raise
        message = usage.explain(fault, command, arguments, _panels(arguments))
        return _complain(message, 2) if message else 2


def _command(arguments: list[str]) -> Any:
    """The parser of the verb that is meant; no other verb's module is imported."""
    from rung.cli import usage

    arguments = arguments or usage.being_completed()
    verb = arguments[0] if arguments and arguments[0] in VERBS else None
    verbs = app([verb]) if verb else app(summary=True)
    command: Any = usage.plain_help(typer.main.get_command(verbs))
    if verb and (panels := _panels(arguments)):
        from rung.cli.flags import hide_others

        hide_others(command.commands[verb], panels, arguments[1:])
    return command


def _panels(arguments: list[str]) -> list[Panel]:
    """The knobs of the verb that is meant, under their headings."""
    known = bool(arguments) and arguments[0] in VERBS
    return getattr(_function(arguments[0]), "panels", []) if known else []


def _drop_output(fault: OSError) -> None:
    """Forget what could not be written to stdout, so that it is not tried again at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, code: int) -> int:
    """One line to stderr. Names come from files and flags: control characters are not passed on."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(message.split()))
    print(f"rung: {line}", file=sys.stderr)
    return code
