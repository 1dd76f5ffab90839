"""Judges of answers to attacks: one file each, found by its name, or an entry point of
`rung.redteam.judges`.
"""

from __future__ import annotations

from rung.errors import ConfigError
from rung.redteam.judges.base import Context, Judge
from rung.registry import Registry

registry: Registry[Judge] = Registry("rung.redteam.judges", "Judge", "judge")
names, get = registry.names, registry.get


def configured(spec: str, context: Context) -> Judge:
    """The judge that `NAME` or `NAME:ARGUMENT` means, ready to judge.

    Raises:
        ConfigError: for an unknown judge, or an argument that is missing, unwanted or malformed.
    """
    name, _, argument = spec.partition(":")
    judge = get(name)
    if argument and not judge.argument_help:
        raise ConfigError(f"--judge {name} takes nothing behind a colon: leave '{argument}' out")
    if judge.argument_help and not argument:
        raise ConfigError(f"--judge {name} needs {judge.argument_help}: write {name}:...")
    return judge.configured(spec, argument, context)
