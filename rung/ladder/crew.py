"""The crew of a climb: workers as Ray's actors, each with cores and memory of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rung.ladder.task_context import TaskContext
from rung.ladder.trial_worker import Answer, Order, TrialWorker, portable
from rung.launch import ray_cluster

WAIT_SECONDS = 0.5  # between two looks at whether Ctrl-C was pressed
STOP_SECONDS = 60.0  # for workers to write what they have


@dataclass(frozen=True)
class Busy:
    """A worker that makes an attempt: its place, and Ray's reference to the answer to come."""

    place: int
    answer: Any


class Crew:
    """Workers that make attempts side by side.

    Args:
        ray: the package, connected. size: how many. memory: bytes of each.

    Raises:
        ClusterError: where the cluster has not so much.
    """

    def __init__(self, ray: Any, bench: TaskContext, size: int, memory: int):
        self.ray, self.size = ray, size
        self.cores = ray_cluster.cores_of_each(ray, size)
        self.each = {"CPU": float(self.cores), "memory": float(memory)}
        if bench.run.device.startswith("cuda"):
            self.each["GPU"] = 1.0
        self._group = ray_cluster.reserve(ray, self.each, size, f"--workers {size}")
        self._bench = ray.put(portable(bench))
        self._workers = {place: self._start(place) for place in range(size)}
        self._processes: dict[int, Any] = {p: w.where.remote() for p, w in self._workers.items()}
        self.busy: dict[str, Busy] = {}
        self._coming: set[int] = set()  # places of workers that were lost, until another one answers

    @property
    def free(self) -> bool:
        """Whether a worker waits for an attempt."""
        return bool(self._idle())

    def _idle(self) -> set[int]:
        """Places of the workers that wait; a place whose host is gone may stay empty for good."""
        if self._coming:
            self._coming -= self._arrived(0)
        return set(self._workers) - {b.place for b in self.busy.values()} - self._coming

    def wait(self) -> None:
        """Wait for a worker where all are gone.

        Raises:
            ClusterError: where no host has room for one.
        """
        if not self._arrived(ray_cluster.RESERVE_SECONDS):
            raise ray_cluster.ClusterError(
                f"all {len(self._coming)} workers are gone, and no host took their place in "
                f"{ray_cluster.RESERVE_SECONDS:.0f} s: go on with rung climb --resume when one is there"
            )

    def _arrived(self, seconds: float) -> set[int]:
        """A lost place that has a worker again, after a wait of at most so long; empty for none."""
        coming = {self._processes[place]: place for place in self._coming}
        ready, _ = self.ray.wait(list(coming), num_returns=1, timeout=seconds)
        return {coming[one] for one in ready}

    def give(self, order: Order) -> None:
        """Have an attempt made by a worker that is free."""
        place = min(self._idle())
        machine = dataclasses.replace(order.machine, path=None)  # the controller keeps what is learned
        order = dataclasses.replace(order, machine=machine)
        self.busy[order.step.key] = Busy(place, self._workers[place].attempt.remote(order))

    def ended(self) -> list[tuple[str, Answer | None]]:
        """Attempts that have ended, by rung, after a moment's wait; None where the worker is gone.

        Another worker has taken the place of one that is gone.
        """
        keys = {b.answer: key for key, b in self.busy.items()}
        ready, _ = self.ray.wait(list(keys), num_returns=1, timeout=WAIT_SECONDS)
        return [(keys[answer], self._answer(keys[answer])) for answer in ready]

    def _answer(self, key: str) -> Answer | None:
        busy = self.busy.pop(key)
        try:
            return self.ray.get(busy.answer)
        except self.ray.exceptions.RayError:
            pass
        self._replace(busy.place)
        return None

    def interrupt(self, key: str) -> None:
        """Ask the worker that tries a rung to stop, as SIGTERM does; its answer then says so."""
        with contextlib.suppress(self.ray.exceptions.RayError):
            _, pid = self.ray.get(self._processes[self.busy[key].place], timeout=STOP_SECONDS)
            node = self._node(self.busy[key].place)
            self.ray.get(_sender(self.ray, node).remote(pid), timeout=STOP_SECONDS)

    def stop(self, each: Callable[[str, Answer | None], None]) -> None:
        """Ask all workers to stop, and tell how each attempt ended."""
        for key in list(self.busy):
            self.interrupt(key)
        until = time.monotonic() + STOP_SECONDS
        while self.busy and time.monotonic() < until:
            for key, answer in self.ended():
                each(key, answer)

    def _start(self, place: int) -> Any:
        options = ray_cluster.place(self._group, place, self.each)
        remote = self.ray.remote(TrialWorker).options(**options, max_restarts=0)
        return remote.remote(self._bench, self.cores)

    def _replace(self, place: int) -> None:
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.kill(self._workers[place])
        self._workers[place] = self._start(place)
        self._processes[place] = self._workers[place].where.remote()
        self._coming.add(place)

    def _node(self, place: int) -> str:
        from ray.util import placement_group_table

        return placement_group_table(self._group)["bundles_to_node_id"][place]


def _sender(ray: Any, node: str) -> Any:
    """A task beside a worker that sends it SIGTERM."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def send(pid: int) -> None:
        os.kill(pid, signal.SIGTERM)

    where = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(send).options(num_cpus=0, scheduling_strategy=where)


@contextlib.contextmanager
def crew(bench: TaskContext, size: int, memory: int, cluster: str) -> Iterator[Crew]:
    """Start workers, and end them.

    Args:
        memory: bytes of each worker. cluster: `local` or an address.

    Raises:
        RungError: where Ray or the resources are missing.
    """
    ray = ray_cluster.connect(cluster, f"--workers {size}")
    try:
        yield Crew(ray, bench, size, memory)
    finally:
        ray_cluster.leave(ray)
