"""Several processes on the hosts of a Ray cluster; here or wherever RAY_ADDRESS says.

rung tune big --data quotes.jsonl --launch ray --processes 4
RAY_ADDRESS=ray://head:10001 rung tune big --data quotes.jsonl --launch ray --processes 4

Ray places the processes, carries their output and stops them; they talk to each other as those of
torchrun do. Every host must see data, base and RUNG_HOME at the same places.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from signal import SIGINT, SIGKILL, SIGTERM, Signals
from typing import Any

from rung.launch import ray_cluster, torchrun
from rung.launch.host_process import AT_ONCE, HostProcess, pass_on

STARTED = "RUNG_LAUNCHED_BY_RAY"  # set for the processes of a training
ADDRESS = "RAY_ADDRESS"  # Ray's own variable


class Launch(torchrun.Launch):
    summary = "several processes on a Ray cluster, by --processes"

    def __init__(self, name: str):
        super().__init__(name)
        self.here = self.here and STARTED in os.environ

    def start(self, arguments: Sequence[str], processes: int | None = None) -> int | None:
        """
        Raises:
            ConfigError: where Ray is missing. ClusterError: where nothing answers, or the cluster lacks
                what so many processes need.
        """
        if self.here:
            return None
        ray = ray_cluster.connect(os.environ.get(ADDRESS) or ray_cluster.LOCAL, "--launch ray", ADDRESS)
        try:
            return _trained(ray, arguments, processes or _devices(ray))
        finally:
            ray_cluster.leave(ray)


@dataclass
class _End:
    """How a process ended, as torch's launcher tells it too."""

    exitcode: int

    def signal_name(self) -> str:
        return Signals(-self.exitcode).name


def _devices(ray: Any) -> int:
    """A process for each GPU of the cluster, or one."""
    return max(1, int(ray.cluster_resources().get("GPU", 0)))


def _trained(ray: Any, arguments: Sequence[str], count: int) -> int:
    """Reserve, start, follow, give back -> the exit code; raises as `Launch.start`."""
    each = ray_cluster.resources_of_each(ray, count)
    group = ray_cluster.reserve(ray, each, count, f"--processes {count}")
    actor = ray.remote(HostProcess)
    placed = [ray_cluster.place(group, place, each) for place in range(count)]
    actors = [
        actor.options(**where, max_restarts=0, max_concurrency=AT_ONCE).remote() for where in placed
    ]
    try:
        try:
            _begin(ray, actors, arguments)
        except ray.exceptions.RayError:  # a host, or Ray's process on it, went meanwhile
            raise ray_cluster.ClusterError(
                "--launch ray lost a process before it began: say it again, or see what `ray status` "
                "tells of the hosts"
            ) from None
        return _Followed(ray, actors).code()
    finally:
        for one in actors:
            ray.kill(one)
        ray.util.remove_placement_group(group)


def _begin(ray: Any, actors: Sequence[Any], arguments: Sequence[str]) -> None:
    """Start the processes, each told of the others; raises ClusterError where a host cannot."""
    hosts = ray.get([one.address.remote() for one in actors])
    neighbours = Counter(host for host, _ in hosts)
    shared = {
        "WORLD_SIZE": str(len(actors)), "MASTER_ADDR": hosts[0][0], "MASTER_PORT": str(hosts[0][1]),
        "LOCAL_RANK": "0", torchrun.WATCHED: "1", STARTED: "1",
    }  # fmt: skip
    own = [
        {"RANK": str(i), "LOCAL_WORLD_SIZE": str(neighbours[host])} for i, (host, _) in enumerate(hosts)
    ]
    begun = [
        one.begin.remote(list(arguments), {**shared, **more}, os.getcwd())
        for one, more in zip(actors, own, strict=True)
    ]
    wrong = [said for said in ray.get(begun) if said]
    if wrong:
        raise ray_cluster.ClusterError(f"--launch ray could not start on {'; '.join(wrong)}")


@dataclass
class _Followed:
    """Processes that are followed to their end: their output goes where ours does."""

    ray: Any
    actors: Sequence[Any]
    ends: dict[int, _End] = field(default_factory=dict)  # by rank
    asked: int = 0  # how often the user has asked to stop

    def code(self) -> int:
        """The exit code of all; raises ProcessLost where one was killed."""
        waiting = {one.news.remote(): rank for rank, one in enumerate(self.actors)}
        while waiting:
            try:
                ready, _ = self.ray.wait(list(waiting), num_returns=1)
                rank = waiting[ready[0]]
                more = self._heard(rank, ready[0])
                del waiting[ready[0]]
                if more:
                    waiting[self.actors[rank].news.remote()] = rank
            except KeyboardInterrupt:
                self.asked += 1
                self._signal(SIGINT if self.asked == 1 else SIGKILL)
        if self.asked:
            return 130
        failed = {rank: end for rank, end in self.ends.items() if end.exitcode}
        return torchrun.code_of(failed, len(self.actors)) if failed else 0

    def _heard(self, rank: int, answer: Any) -> bool:
        """Pass on what a process wrote -> whether more is to come."""
        try:
            said, code = self.ray.get(answer)
        except self.ray.exceptions.RayError:  # the host, or Ray's process on it, is gone
            said, code = [], -SIGKILL
        for number, part in said:
            pass_on(number, part)
        if code is None:
            return True
        self.ends[rank] = _End(code)
        if code and not self.asked and len([e for e in self.ends.values() if e.exitcode]) == 1:
            self._signal(SIGTERM)  # the others would wait for it
        return False

    def _signal(self, number: int) -> None:
        for rank, one in enumerate(self.actors):
            if rank not in self.ends:
                one.signal.remote(int(number))
