"""Which tools may run on this machine: those that its owner has named, as they were then.

`--tools` is what names them. A model's folder says which tools it calls, but a folder may come from
elsewhere; what it says is run only where the owner has named the same, and its file has not changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from rung import home
from rung.errors import ConfigError, one_line
from rung.tools.toolbox import MCP, absolute

FILE = "tools.json"  # in Rung's home: spec -> SHA-256 of the file, empty for a command


def allow(specs: Sequence[str]) -> tuple[str, ...]:
    """Remember that the owner names these tools, and return them as they mean the same anywhere.

    Raises:
        ConfigError: for a file that is not there.
    """
    named = tuple(absolute(spec) for spec in specs)
    known = _read()
    found = {**known, **{spec: _digest(spec) for spec in named}}
    if found != known:
        place = home.home() / FILE
        temporary = place.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        temporary.replace(place)
    return named


def check(specs: Sequence[str]) -> None:
    """Refuse tools that the owner has not named, or whose file has changed since.

    Raises:
        ConfigError: saying what to name.
    """
    known, wrong = _read(), []
    for spec in specs:
        if spec not in known:
            wrong.append(f"the model calls {spec}, which nobody has named here")
        elif known[spec] != _digest(spec):
            wrong.append(f"{spec} has changed since it was named")
    if wrong:
        again = " ".join(f"--tools '{spec}'" for spec in specs)
        raise ConfigError(one_line([*wrong, f"to run it, say {again}"]))


def _digest(spec: str) -> str:
    if spec.startswith(MCP):
        return ""
    try:
        return hashlib.sha256(Path(spec).read_bytes()).hexdigest()
    except OSError as fault:
        raise ConfigError(f"--tools: cannot read {spec}: {fault.strerror}") from None


def _read() -> dict[str, str]:
    try:
        found = json.loads((home.home() / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
