"""Several processes by torch's own launcher (torch elastic), on one machine or on many.

rung tune big --data quotes.jsonl --launch torchrun --processes 2
torchrun --nproc-per-node 2 -m rung tune big --data quotes.jsonl

Data parallel: every process holds the trained weights whole, computes its part of a step's rows, and
steps by the sum of all gradients, so that loss and weights are those of one process. CPUs talk by gloo,
GPUs by nccl.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import groupby
from signal import SIGTERM
from typing import TYPE_CHECKING, Any, TypeVar

from rung.errors import ConfigError, PeerLost, ProcessLost, RungError
from rung.launch import base

if TYPE_CHECKING:
    from torch import Tensor

    from rung.objectives import Row

T = TypeVar("T")

BUCKET_BYTES = 64 << 20  # of gradients in one all-reduce, at least one tensor
WAIT = timedelta(minutes=30)  # for the slowest process, before a training counts as lost
STOP_SECONDS = 120  # from the signal to the end: a step, and the checkpoint of it
WATCHED = "RUNG_WATCHED"  # set by `start` for the processes that it waits for
THREADS = "OMP_NUM_THREADS"


class Launch(base.Launch):
    summary = "several processes, by torchrun or by --processes"
    starts = True

    def __init__(self, name: str):
        super().__init__(name)
        said = os.environ
        self.here = all(key in said for key in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
        if self.here:
            self.rank, self.size = int(said["RANK"]), int(said["WORLD_SIZE"])
            self.neighbours = int(said.get("LOCAL_WORLD_SIZE", self.size))
            self.watched = WATCHED in said

    # --- starting -------------------------------------------------------------------------------

    def start(self, arguments: Sequence[str], processes: int | None = None) -> int | None:
        if self.here:
            return None
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import elastic_launch

        processes = processes or _devices()
        logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # its news are told below
        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
        with _environment(processes):
            try:
                elastic_launch(_config(processes), sys.executable)("-m", "rung", *arguments)
            except ChildFailedError as failed:
                return code_of(failed.failures, processes)
            except SignalException:
                return 130
        return 0

    def join(self, device: str) -> None:
        """
        Raises:
            ConfigError: when nobody started this process beside others, or a device is named that only
                one of them can have.
        """
        import torch
        import torch.distributed as dist

        if not self.here:
            raise ConfigError(
                "--launch torchrun trains in processes that somebody must start: use "
                "rung tune --launch torchrun --processes N, or torchrun --nproc-per-node N -m rung tune"
            )
        self.sharded = False
        if dist.is_initialized():
            return
        kind, _, number = device.partition(":")
        if number and self.neighbours > 1:
            raise ConfigError(f"--device {device} is one device for several processes: say {kind}")
        if kind == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        elif self.neighbours > 1 and os.environ.get(THREADS, "1") == "1":
            torch.set_num_threads(threads(self.neighbours))  # torchrun itself leaves each of them one
        with _peers():
            dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo", timeout=WAIT)
        atexit.register(_leave)

    # --- training together ----------------------------------------------------------------------

    def share(self, rows: Sequence[Row]) -> Sequence[Row]:
        from rung.forward.packing import cut

        parts = cut([r.ids for r in rows], self.size, [r.tokens for r in rows])
        return [rows[i] for i in parts[self.rank]]

    def add(self, tensors: Sequence[Tensor]) -> None:
        import torch
        import torch.distributed as dist

        for bucket in _buckets(tensors):
            alone = len(bucket) == 1 and bucket[0].is_contiguous()
            flat = bucket[0] if alone else torch.cat([t.reshape(-1) for t in bucket])
            with _peers():
                dist.all_reduce(flat)
            if not alone:
                parts = flat.split([t.numel() for t in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))

    def agree(self, flag: bool) -> bool:
        return bool(self.most(int(flag)))

    def most(self, count: int) -> int:
        import torch
        import torch.distributed as dist

        found = torch.tensor(count)
        with _peers():
            dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return int(found)

    def barrier(self) -> None:
        import torch.distributed as dist

        with contextlib.suppress(PeerLost), _peers():
            dist.barrier()

    def shard(self, model: Any, dtype: str, device: str) -> None:
        import torch

        from rung.launch.sharding import shard

        with _peers():
            shard(model, getattr(torch, dtype), device, self.size)
        self.sharded = True

    def same(self, make: Callable[[], T]) -> T:
        import torch.distributed as dist

        said: list[Any] = [None, None]
        own: Exception | None = None
        if self.main:
            try:
                said[0] = make()
            except Exception as fault:  # noqa: BLE001 - raised again, here and on the others
                own = fault
                said[1] = fault if isinstance(fault, RungError) else RuntimeError(repr(fault))
        with _peers():
            dist.broadcast_object_list(said, src=0)
        if own is not None:
            raise own
        if said[1] is not None:
            raise said[1]
        return said[0]


def threads(processes: int) -> int:
    """Threads of each process, so that together they have as many as there are cores."""
    own = getattr(os, "sched_getaffinity", None)  # only Linux says which cores are ours
    return max(1, (len(own(0)) if own else os.cpu_count() or 1) // processes)


def _devices() -> int:
    """A process for each GPU, or one."""
    import torch

    return max(1, torch.cuda.device_count())


def _config(processes: int) -> Any:
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=f"rung-{os.getpid()}",
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0,
        shutdown_timeout=STOP_SECONDS,
    )  # fmt: skip


@contextmanager
def _environment(processes: int) -> Iterator[None]:
    """What the processes shall inherit, taken back afterwards."""
    given = {WATCHED: "1", THREADS: os.environ.get(THREADS) or str(threads(processes))}
    before = {key: os.environ.get(key) for key in given}
    os.environ |= given
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def code_of(failures: Mapping[int, Any], processes: int) -> int:
    """The exit code of a training that failed, as its first process told it.

    Raises:
        ProcessLost: when a process was killed, so that nobody has told anything.
    """
    killed = {rank: f for rank, f in failures.items() if f.exitcode < 0}
    # The launcher ends the others by SIGTERM when one has died: the one that died is told.
    for rank, failure in sorted(killed.items(), key=lambda one: (one[1].exitcode == -SIGTERM, one[0])):
        name = failure.signal_name()
        raise ProcessLost(f"process {rank} of {processes} (ranks from 0) was ended by {name}")
    return next((failures[rank].exitcode for rank in sorted(failures)), 1)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Contiguous tensors of one kind in groups that one all-reduce takes; none of them is empty."""
    kept = [t for t in tensors if t.numel()]
    ordered = sorted(kept, key=lambda t: (str(t.device), str(t.dtype)))  # stable: alike on every rank
    for _, alike in groupby(ordered, key=lambda t: (t.device, t.dtype)):
        bucket: list[Tensor] = []
        held = 0
        for tensor in alike:
            if bucket and held + tensor.nbytes > BUCKET_BYTES:
                yield bucket
                bucket, held = [], 0
            bucket.append(tensor)
            held += tensor.nbytes
        yield bucket


@contextmanager
def _peers() -> Iterator[None]:
    """Talk to the other processes; raises PeerLost where one of them is gone."""
    try:
        yield
    except RuntimeError as fault:
        raise PeerLost(str(fault).partition("\n")[0]) from None


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
