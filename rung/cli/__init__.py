"""The command line: `rung VERB ...`, one module per verb.

A user's mistake is one line on stderr and exit code 2; Ctrl-C is exit code 130. Anything that shows a
traceback is a bug in Rung.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import typer

# verb -> (module, function); imported only when asked for, so that `rung --help` stays quick.
VERBS = {
    "tune": ("tune", "tune"),
    "resume": ("tune", "resume"),
    "compare": ("compare", "compare"),
    "chat": ("chat", "chat"),
    "serve": ("serve", "serve"),
    "models": ("models", "models"),
    "show": ("models", "show"),
    "remove": ("models", "remove"),
    "runs": ("models", "runs"),
    "data": ("data", "data"),
    "bases": ("bases", "bases"),
    "export": ("export", "export"),
}


def app(verbs: list[str] | None = None) -> typer.Typer:
    """The commands, or only those named."""
    from rung import __version__

    built = typer.Typer(
        name="rung",
        help="Adapt a foundation model, measure what it gained, serve every result from one base.",
        no_args_is_help=True,
        add_completion=False,
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
        built.command(verb)(_function(verb))
    return built


def _function(verb: str) -> Callable:
    module, function = VERBS[verb]
    return getattr(importlib.import_module(f"rung.cli.{module}"), function)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    from rung.errors import RungError

    # The verb that is meant is the only one whose module must be imported.
    verb = arguments[0] if arguments and arguments[0] in VERBS else None
    try:
        result = app([verb] if verb else None)(arguments, standalone_mode=False, prog_name="rung")
        return result if isinstance(result, int) else 0
    except RungError as fault:
        return _complain(str(fault), fault.exit_code)
    except typer.Abort:
        return 130
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read us is gone; nothing is left to say
        return 0
    except Exception as fault:
        if _is_usage(fault):
            return _complain(fault.format_message(), 2)  # type: ignore[attr-defined]
        raise


def _is_usage(fault: Exception) -> bool:
    """Whether click found fault with the arguments; typer may bring a click of its own."""
    return hasattr(fault, "format_message") and hasattr(fault, "exit_code")


def _complain(message: str, code: int) -> int:
    print(f"rung: {' '.join(message.split())}", file=sys.stderr)
    return code
