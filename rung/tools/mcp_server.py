"""Tools of an MCP server over stdio (modelcontextprotocol.io), through the official package `mcp`.

    --tools 'mcp:npx -y @modelcontextprotocol/server-everything'

The command runs in a process of its own with a limit on memory; a call has its limit of time, a result
its length. A server that has died is started anew for the next call.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rung.errors import ConfigError, one_line
from rung.tools.base import Limits, Result, Source

GUARD = Path(__file__).with_name("guard.py")
START_SECONDS = 60.0  # until the server has told its tools
MAX_LINE = 4 << 20  # bytes of a message
MAX_TOOLS = 128  # of one server


class McpServer(Source):
    """The tools of one server. Calls wait for one another, from any thread."""

    def __init__(self, command: str, limits: Limits):
        self.command, self.limits = command, limits
        self.functions = []
        self._stack: ExitStack | None = None
        self._portal: Any = None
        self._session: Any = None
        self._lock = threading.RLock()

    def open(self) -> None:
        with self._lock:
            if self._session is not None:
                return
            tools = self._connect()
            self.functions = [
                {
                    "name": tool.name,
                    "description": tool.description or "",
                    "parameters": dict(tool.input_schema),
                }
                for tool in tools
            ]
            if not self.functions:
                self.close()
                raise ConfigError(f"--tools: the server '{self.command}' offers no tools")

    def call(self, name: str, arguments: Mapping[str, Any]) -> Result:
        seconds = self.limits.seconds
        with self._lock:
            try:
                self.open()
                ask = partial(
                    self._session.call_tool, name, dict(arguments), read_timeout_seconds=seconds
                )
                return self._read(self._portal.call(ask))
            except ConfigError as fault:
                return Result.fault(str(fault))
            except Exception as fault:  # whatever the server does is told to the model
                self.close()
                return Result.fault(f"the server did not answer: {one_line([str(fault)])}")

    def _read(self, found: Any) -> Result:
        """The text of a result; parts that are no text are named."""
        parts = [
            part.text
            if getattr(part, "type", "") == "text"
            else f"[{getattr(part, 'type', 'unknown')}]"
            for part in getattr(found, "content", None) or []
        ]
        text = "\n".join(parts)
        if getattr(found, "is_error", False):
            return Result.fault(text)
        return Result.of(text, self.limits.characters)

    def _connect(self) -> list[Any]:
        """Start the server -> its tools. Raises ConfigError saying why it cannot be."""
        try:
            import anyio
            from anyio.from_thread import start_blocking_portal
            from mcp import ClientSession, StdioServerParameters
            from mcp.client.stdio import stdio_client
        except ImportError:
            raise ConfigError(
                "--tools mcp:... needs the package mcp: pip install 'rung[mcp]'"
            ) from None
        command = shlex.split(self.command)
        if not command:
            raise ConfigError("--tools mcp: names no command")
        limits = [str(self.limits.megabytes), str(MAX_LINE)]
        wanted = StdioServerParameters(
            command=sys.executable, args=[str(GUARD), *limits, *command], env=dict(os.environ)
        )

        @asynccontextmanager
        async def connected() -> AsyncIterator[tuple[Any, list[Any]]]:
            with open(os.devnull, "w", encoding="utf-8") as silent:
                async with (
                    stdio_client(wanted, errlog=silent) as (read, write),
                    ClientSession(read, write) as session,
                ):
                    with anyio.fail_after(START_SECONDS):
                        await session.initialize()
                        tools = await listed(session)
                    yield session, tools

        stack = ExitStack()
        try:
            portal = stack.enter_context(start_blocking_portal())
            session, tools = stack.enter_context(portal.wrap_async_context_manager(connected()))
        except BaseException as fault:
            with contextlib.suppress(Exception):
                stack.close()
            if not isinstance(fault, Exception):
                raise
            while isinstance(fault, BaseExceptionGroup):  # as task groups wrap what went wrong
                fault = fault.exceptions[0]
            why = one_line([str(fault) or type(fault).__name__])
            raise ConfigError(f"--tools: no MCP server answers as '{self.command}': {why}") from None
        self._stack, self._portal, self._session = stack, portal, session
        return tools

    def close(self) -> None:
        with self._lock:
            stack, self._stack, self._session, self._portal = self._stack, None, None, None
            if stack is not None:
                with contextlib.suppress(Exception, BaseExceptionGroup):
                    stack.close()


async def listed(session: Any) -> list[Any]:
    """Ask a session of `mcp` for its tools, page by page, `MAX_TOOLS` at most."""
    from mcp import types

    found: list[Any] = []
    cursor: str | None = None
    while len(found) < MAX_TOOLS:
        params = None if cursor is None else types.PaginatedRequestParams(cursor=cursor)
        page = await session.list_tools(params=params)
        found += page.tools
        if page.next_cursor in (None, cursor):
            break
        cursor = page.next_cursor
    return found[:MAX_TOOLS]
