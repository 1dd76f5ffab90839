"""Replicas on the hosts of a Ray cluster, each in the process of an actor."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from signal import SIGKILL
from typing import Any

from rung.errors import ConfigError
from rung.launch import ray_cluster
from rung.launch.host_process import AT_ONCE, HostProcess, pass_on
from rung.server.replicas.children import AGAIN_SECONDS, LOOPBACK, REPLICA, Child

PASSED_ON = ("RUNG_API_KEY",)  # of this process's environment, beside the places that hosts share


class Hosts:
    """Reserved places for replicas, and the processes there.

    Args:
        ray: the package, connected. address: of the cluster. count: of the replicas.
    """

    def __init__(self, ray: Any, address: str, count: int):
        self.ray, self.here = ray, address == ray_cluster.LOCAL
        self.each = ray_cluster.resources_of_each(ray, count)
        self._group = ray_cluster.reserve(ray, self.each, count, f"--replicas {count}")

    def child(
        self, place: int, command: Sequence[str], came: Callable[[str], None], went: Callable[[], None]
    ) -> Child:
        """The replica of a place; on another host than this it listens at that host's address."""
        return _HostedChild(self, place, command, came, went)

    async def begin(self, place: int, command: Sequence[str]) -> HostedProcess:
        """Start `rung COMMAND` at a place.

        Raises:
            ConfigError: where its host cannot.
        """
        where = ray_cluster.place(self._group, place, self.each)
        actor = self.ray.remote(HostProcess).options(**where, max_concurrency=AT_ONCE).remote()
        if not self.here:
            host, _ = await actor.address.remote()
            command = [word.replace(f"--host={LOOPBACK}", f"--host={host}") for word in command]
        more = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        environment = {"PYTHONUNBUFFERED": "1", REPLICA: "1", **more}
        wrong = await actor.begin.remote(list(command), environment, os.getcwd())
        if wrong:
            raise ConfigError(f"--cluster could not start a replica on {wrong}")
        return HostedProcess(self.ray, actor)


class HostedProcess:
    """A process of an actor, as `children.Process` describes one.

    Args:
        ray: the package. actor: a `HostProcess` that has begun.
    """

    def __init__(self, ray: Any, actor: Any):
        self._ray, self._actor = ray, actor
        self._ended = asyncio.Event()
        self.returncode: int | None = None

    @property
    def stdout(self) -> AsyncIterator[bytes]:
        return self._lines()

    async def _lines(self) -> AsyncIterator[bytes]:
        """Lines of its output; what it writes to stderr goes where ours does."""
        rest = b""
        while self.returncode is None:
            try:
                said, code = await self._actor.news.remote()
            except self._ray.exceptions.RayError:  # its host, or Ray's process there, is gone
                said, code = [], -SIGKILL
            for number, part in said:
                if number == 1:
                    rest += part
                else:
                    pass_on(number, part)
            *lines, rest = rest.split(b"\n")
            for line in lines:
                yield line + b"\n"
            if code is not None:
                self.returncode = code
                self._ray.kill(self._actor)  # which would keep its place from the next one
                self._ended.set()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        self._actor.signal.remote(int(number))

    def kill(self) -> None:
        """End the process with its actor; Linux ends it with its parent."""
        self.send_signal(SIGKILL)
        self._ray.kill(self._actor)


class _HostedChild(Child):
    def __init__(
        self, hosts: Hosts, place: int, command: Sequence[str],
        came: Callable[[str], None], went: Callable[[], None],
    ):  # fmt: skip
        super().__init__(command, {}, came, went)
        self.hosts, self.place = hosts, place

    async def spawn(self) -> HostedProcess:
        while True:
            try:
                return await self.hosts.begin(self.place, self.command)
            except self.hosts.ray.exceptions.RayError:  # its host went meanwhile; Ray finds another
                await asyncio.sleep(AGAIN_SECONDS)


@contextlib.contextmanager
def reserved(address: str, count: int) -> Iterator[Hosts]:
    """Places for so many replicas on a cluster, given back at the end.

    Args:
        address: `local`, or `ray://HOST:PORT`.

    Raises:
        ConfigError: for an address that is none, or where Ray is missing. ClusterError: where nothing
            answers, or the cluster lacks what so many replicas need.
    """
    ray = ray_cluster.connect(address, "--cluster")
    try:
        yield Hosts(ray, address, count)
    finally:
        ray_cluster.leave(ray)
