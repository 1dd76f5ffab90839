"""Replicas as child processes: started, watched, started again, ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from typing import Any, Protocol

from rung.config import knobs_of
from rung.errors import ConfigError
from rung.launch.host_process import ends_with_parent
from rung.launch.torchrun import threads
from rung.server.knobs import ServeKnobs

START_SECONDS = 600.0  # for a base to load
DRAIN_SECONDS = 330.0  # for answers to be finished; then a replica is killed
AGAIN_SECONDS = 2.0  # between the end of a replica and its next start
REPLICA = "RUNG_REPLICA"  # set for a replica's process, as rung/cli/serve.py reads it
# What the router has.
OWN = ("host", "port", "replicas", "cluster", "tls_certificate", "tls_key", "jobs")
log = logging.getLogger("rung.server")
LOOPBACK = "127.0.0.1"
ADDRESS = re.compile(rb"serving at (http://[^/\s]+)/v1")


class Process(Protocol):
    """What is asked of a replica's process, as `asyncio.subprocess.Process` has it."""

    @property
    def stdout(self) -> AsyncIterable[bytes] | None:
        """Its lines."""
        ...

    @property
    def returncode(self) -> int | None: ...

    def send_signal(self, number: int) -> None: ...

    def kill(self) -> None: ...

    async def wait(self) -> int: ...


class Child:
    """One replica's process, for as long as the server runs.

    Args:
        command: the words behind `rung` that start it, with a free port. environment: of it.
        came: told its address when it answers. went: told when it has ended.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str],
        came: Callable[[str], None], went: Callable[[], None],
    ):  # fmt: skip
        self.command, self.environment = list(command), dict(environment)
        self.came, self.went = came, went
        self.process: Process | None = None
        self.ready = asyncio.Event()
        self._ending = False
        self._watch: asyncio.Task | None = None

    async def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            ConfigError: where it could not begin, or ended before; it has said why to stderr then.
        """
        self._watch = asyncio.create_task(self._run())
        waiting = asyncio.create_task(self.ready.wait())
        await asyncio.wait(
            {self._watch, waiting}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if not self.ready.is_set():
            waiting.cancel()
            if self._watch.done():
                self._watch.result()  # raises what was wrong, where it could not even begin
            raise ConfigError("a replica could not be started: see above")

    async def _run(self) -> None:
        """Keep it running; where its first process never answered, it is not started again."""
        while not self._ending:
            try:
                answered = await self._once()
            except Exception as fault:  # no memory or no host is left: a moment later there may be
                if not self.ready.is_set():
                    raise
                log.warning("a replica could not be started again: %s", fault)
                answered = False
            if self._ending or not self.ready.is_set():
                return
            if answered:
                self.went()
            await asyncio.sleep(AGAIN_SECONDS)

    async def _once(self) -> bool:
        """From start to end; returns whether it has answered."""
        self.process = await self.spawn()
        answered = False
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            found = ADDRESS.search(line)
            if found and not answered:
                answered = True
                self.came(found[1].decode())
                self.ready.set()
        await self.process.wait()
        return answered

    async def spawn(self) -> Process:
        """Start the process by its command."""
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rung", *self.command,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            env=self.environment, start_new_session=True,  # Ctrl-C is the parent's to pass on
            preexec_fn=ends_with_parent(),
        )  # fmt: skip

    async def stop(self) -> None:
        """Let it finish what it answers, and wait for its end."""
        self._ending = True
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), DRAIN_SECONDS)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch

    def kill(self) -> None:
        """End it at once."""
        self._ending = True
        if self.process is not None and self.process.returncode is None:
            self.process.kill()


def command(names: Sequence[str], given: Mapping[str, Any], place: int) -> list[str]:
    """The words behind `rung` of a replica: what was given to the server, but for where it listens.

    Args:
        given: settings by knob. place: of the replica; the first alone runs jobs.
    """
    told = ["serve", *names]
    for knob in knobs_of(ServeKnobs):
        value = given.get(knob.name)
        if knob.name in OWN or value is None:
            continue
        if isinstance(value, bool):
            told.append(knob.flag if value else f"--no-{knob.flag[2:]}")
        else:
            many = value if isinstance(value, list) else [value]
            told += [f"{knob.flag}={one}" for one in many]
    told += [f"--host={LOOPBACK}", "--port=0"]
    if place == 0:
        return [*told, f"--jobs={given['jobs']}"] if "jobs" in given else told
    return [*told, "--jobs=0", "--no-page"]


def environment(replicas: int) -> dict[str, str]:
    """A replica's environment: its part of the cores, and that it is one."""
    own = os.environ.get("OMP_NUM_THREADS", str(threads(replicas)))
    return {**os.environ, "OMP_NUM_THREADS": own, "PYTHONUNBUFFERED": "1", REPLICA: "1"}
