"""A toolbox: what `--tools` names, opened once in a process, with every function by its name.

box = open_toolbox(("tools.py", "mcp:npx -y some-server"))
box.call("add", {"a": 1, "b": 2}).text
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rung.data.turns import told
from rung.errors import ConfigError, one_line
from rung.tools.base import Limits, Result, Source
from rung.tools.calls import Call
from rung.tools.python_file import PythonFile

MCP = "mcp:"


class Toolbox:
    """Functions of several sources.

    Args:
        specs: files of Python, or `mcp:COMMAND`.

    Attributes:
        functions: in OpenAI's words, as prompts and chat templates show them.

    Raises:
        ConfigError: for a spec that cannot be opened, two functions of one name, and a schema of
            arguments that is none.
    """

    def __init__(self, specs: Sequence[str], limits: Limits | None = None):
        self.specs = tuple(specs)
        limits = limits or Limits()
        self._sources = [source_of(spec, limits) for spec in specs]
        self._owner: dict[str, Source] = {}
        self._validators: dict[str, Any] = {}
        self.functions: list[dict[str, Any]] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        twice, wrong = [], []
        for source in self._sources:
            source.open()
            for function in source.functions:
                name = str(function["name"])
                if name in self._owner:
                    twice.append(name)
                self._owner[name] = source
                self.functions.append(told(function))
                try:
                    self._validators[name] = _validator(function.get("parameters") or {})
                except ValueError as fault:
                    why = " ".join(str(fault).partition("\n")[0].split())[:200]
                    wrong.append(f"the schema of {name} is none ({why})")
        if twice:
            raise ConfigError(f"--tools: two functions are called {', '.join(sorted(set(twice)))}")
        if wrong:
            raise ConfigError(f"--tools: {one_line(wrong)}")

    @property
    def names(self) -> list[str]:
        """Names of all functions, in their order."""
        return [f["function"]["name"] for f in self.functions]

    def run(self, call: Call) -> Result:
        """Make a call as a model wrote it; whatever is wrong with it is a result that says so."""
        arguments = call.values
        if not isinstance(arguments, dict):
            return Result.fault(f"the arguments of {call.name} are no JSON object")
        return self.call(call.name, arguments)

    def call(self, name: str, arguments: Mapping[str, Any]) -> Result:
        """Call a function with arguments that fit its schema."""
        source = self._owner.get(name)
        if source is None:
            return Result.fault(f"there is no tool {name[:80]}; there are {', '.join(self.names)}")
        wrong = self._misfit(name, arguments)
        if wrong:
            return Result.fault(f"the arguments of {name} do not fit: {wrong}")
        return source.call(name, arguments)

    def _misfit(self, name: str, arguments: Mapping[str, Any]) -> str | None:
        faults = [error.message for error in self._validators[name].iter_errors(dict(arguments))]
        return one_line(faults) if faults else None

    def close(self) -> None:
        """End every process."""
        for source in self._sources:
            source.close()


def _validator(schema: Mapping[str, Any]) -> Any:
    """What checks arguments. Raises ValueError for no JSON Schema, or one that refers elsewhere."""
    import jsonschema_rs

    def elsewhere(address: str) -> Any:
        raise ValueError(f"it refers to {address}, which is not fetched")

    return jsonschema_rs.validator_for({"type": "object", **schema}, retriever=elsewhere)


def source_of(spec: str, limits: Limits) -> Source:
    """The source that a spec names.

    Raises:
        ConfigError: when it is neither a Python file nor `mcp:COMMAND`.
    """
    if spec.startswith(MCP):
        from rung.tools.mcp_server import McpServer

        return McpServer(spec.removeprefix(MCP), limits)
    if spec.endswith(".py"):
        return PythonFile(Path(spec).expanduser().absolute(), limits)
    raise ConfigError(f"--tools '{spec}' is neither a .py file nor mcp:COMMAND")


def absolute(spec: str) -> str:
    """A spec that means the same from any folder."""
    if spec.startswith(MCP) or not spec.endswith(".py"):
        return spec
    return str(Path(spec).expanduser().absolute())


_open: dict[tuple[str, ...], Toolbox] = {}
_lock = threading.Lock()


def open_toolbox(specs: Sequence[str]) -> Toolbox:
    """The toolbox of these specs; one for all who name the same, ended with the process.

    Raises:
        ConfigError: as `Toolbox`.
    """
    key = tuple(absolute(spec) for spec in specs)
    with _lock:
        if key not in _open:
            _open[key] = box = Toolbox(key)
            atexit.register(box.close)
        return _open[key]
