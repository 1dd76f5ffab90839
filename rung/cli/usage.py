"""What is wrong with the words of a command line, in one line that names all of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from rung.config import Knob, abroad
from rung.errors import ConfigError, nearest, one_line

if TYPE_CHECKING:
    from rung.cli.flags import Panel


# What other tools call a verb, or what is asked of them in other words.
ELSEWHERE = {
    "train": "rung tune", "finetune": "rung tune", "fine-tune": "rung tune", "fit": "rung tune",
    "help": "rung --help", "version": "rung --version", "completion": "rung --install-completion",
    "list": "rung models", "ls": "rung models", "ps": "rung status", "rm": "rung remove",
    "delete": "rung remove", "evaluate": "rung eval", "test": "rung eval", "run": "rung chat",
    "generate": "rung chat", "ask": "rung chat", "inspect": "rung data", "attack": "rung redteam",
    "convert": "rung export", "benchmark": "rung measure", "leaderboard": "rung board",
}  # fmt: skip

# Flags of a verb that may stand without a value: they then ask for it.
OPEN = {"climb": ("--resume",)}


def check_verb(arguments: Sequence[str], verbs: Collection[str]) -> None:
    """Refuse what is no verb, and words that are no text.

    Raises:
        ConfigError: naming the nearest verb, or the word.
    """
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"the argument {ascii(word)} is not UTF-8: write it in UTF-8") from None
    if arguments and not arguments[0].startswith("-") and arguments[0] not in verbs:
        here = ELSEWHERE.get(arguments[0].lower())
        hint = f", here {here}" if here else nearest(arguments[0], verbs)
        raise ConfigError(f"no verb '{arguments[0]}'{hint}")


def filled(arguments: Sequence[str]) -> list[str]:
    """Arguments with an empty value behind each of OPEN that has none, since click wants one."""
    found: list[str] = []
    for place, word in enumerate(arguments):
        follows = arguments[place + 1] if place + 1 < len(arguments) else "-"
        bare = word in OPEN.get(arguments[0], ()) and follows.startswith("-")
        found.append(f"{word}=" if bare else word)
    return found


def being_completed() -> list[str]:
    """The words that a shell asks to complete, without the program's own name; else nothing."""
    if "_RUNG_COMPLETE" not in os.environ:
        return []
    words = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    return words.split()[1:]


def is_usage(fault: Exception) -> bool:
    """Whether click found fault with the arguments; typer may bring a click of its own."""
    return hasattr(fault, "format_message") and hasattr(fault, "exit_code")


def explain(fault: Any, command: Any, arguments: Sequence[str], panels: Sequence[Panel] = ()) -> str:
    """Click's complaint in Rung's words. Empty when click only showed the help.

    Click stops at the first flag it does not know; here all of them are named.

    Args:
        command: the parser that found fault. panels: the verb's knobs.
    """
    message = fault.format_message().strip()
    if not message:
        return ""
    verb = command.commands.get(arguments[0]) if arguments else None
    page = f"rung {arguments[0]} --help" if verb else "rung --help"
    words = arguments[1:] if verb else arguments
    knobs = [knob for panel in panels for knob in panel.knobs]
    problems = flag_problems((verb or command).params, words, knobs)
    if problems:
        return one_line(problems)
    return f"{message[:1].lower()}{message[1:].rstrip('.')} ({page} says what it takes)"


def flag_problems(params: Sequence[Any], words: Sequence[str], knobs: Sequence[Knob] = ()) -> list[str]:
    """Every flag that is unknown, and every one that lacks its value.

    Args:
        params: click's parameters of the command.
        words: what follows the verb.
    """
    switches: dict[str, bool] = {"--help": True}  # flag -> whether it takes no value
    for param in params:
        for name in (*param.opts, *param.secondary_opts):
            if name.startswith("-"):
                switches[name] = bool(getattr(param, "is_flag", False))
    problems, at = [], 0
    while at < len(words) and words[at] != "--":
        name, equals, _ = words[at].partition("=")
        at += 1
        if not name.startswith("--") and name not in switches:
            continue
        if name not in switches:
            problems.append(f"no flag {name}{_instead(name, knobs) or nearest(name, switches)}")
        elif not switches[name] and not equals:
            if at == len(words) or words[at] in switches:
                problems.append(f"{name} needs a value")
            else:
                at += 1
    return problems


def _instead(name: str, knobs: Sequence[Knob]) -> str:
    """The flag for what other libraries call by this name; empty where it is none of theirs."""
    meant = abroad(name.lstrip("-"), knobs)
    return f", here {meant[0].flag}{meant[1] and ' ' + meant[1]} ({meant[0].help})" if meant else ""


def of_system(fault: OSError) -> str:
    """What the operating system refused, and at which file."""
    reason = fault.strerror or str(fault)
    where = f" {os.fspath(fault.filename)!r}" if isinstance(fault.filename, (str, os.PathLike)) else ""
    return f"the system refused{where}: {reason}"


def plain_help(command: Any) -> Any:
    """The command with help that says NAME for an argument and nothing for the type of a switch."""
    for one in (command, *command.commands.values()):
        one.get_help_option = _untyped(one.get_help_option)  # made anew each time it is asked for
        for param in one.params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
            elif param.param_type_name == "argument" and param.metavar is None:
                param.metavar = param.name.upper()
    return command


def _untyped(get_option: Callable) -> Callable:
    def get(ctx: Any) -> Any:
        option = get_option(ctx)
        if option is not None:
            option.metavar = ""
        return option

    return get
