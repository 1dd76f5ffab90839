"""Ray: joining a cluster, or starting one on this machine, and reserving resources of it.

Ray is the extra `cluster`; nothing here imports it before a cluster is asked for.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rung.errors import ConfigError, RungError
from rung.launch.torchrun import threads

LOCAL = "local"
SHARED = ("RUNG_HOME", "RUNG_STORE")  # places that every host must see alike
MODE, TOKENS = "RAY_AUTH_MODE", ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_TQDM": "0"}
OBJECT_STORE_BYTES = 256 << 20  # of a cluster on this machine: rows of a data set, no weights
RESERVE_SECONDS = 60.0  # for a cluster to find free what was asked for
MISSING = (
    "{what} needs Ray, which is not installed: pip install 'rung[cluster]', or leave it out to stay on "
    "this machine"
)


class ClusterError(RungError):
    """A cluster cannot be reached, or has not what was asked for."""

    exit_code = 1


def imported(what: str, address: str) -> Any:
    """The package `ray`, which reads its environment while it is imported.

    Args:
        what: the flag that needs it. address: of the cluster to come.

    Raises:
        ConfigError: where it is not installed.
    """
    os.environ |= {key: value for key, value in QUIET.items() if key not in os.environ}
    # Ray's client sends no token by itself, and would wait in vain. A Ray of this machine sees to its
    # own: told to want one once `ray` is imported, it would refuse the process that started it.
    if address != LOCAL and MODE not in os.environ and _has_token():
        os.environ[MODE] = "token"
    try:
        import ray
    except ModuleNotFoundError:
        raise ConfigError(MISSING.format(what=what)) from None
    return ray


def check_address(address: str, named: str = "--cluster") -> None:
    """Refuse what is neither this machine nor a cluster's address.

    Args:
        named: what names it, for messages.

    Raises:
        ConfigError: saying what is.
    """
    if address != LOCAL and not (address.startswith("ray://") and address[6:].rpartition(":")[0]):
        raise ConfigError(f"{named} is '{address}': say local, or ray://HOST:10001 of a Ray cluster")


def connect(address: str, what: str, named: str = "--cluster") -> Any:
    """Start Ray on this machine, or join a cluster; returns the package, to be shut down by `leave`.

    Args:
        address: `local` or `ray://HOST:PORT`. what: the flag that asks for it. named: what names the
            address, for messages.

    Raises:
        ConfigError: for an address that is none, where Ray is missing, and for a cluster with a store
            that only this machine can write. ClusterError: where nothing answers.
    """
    check_address(address, named)
    ray = imported(what, address)
    shared = {name: os.environ[name] for name in SHARED if os.environ.get(name)}
    settings: dict[str, Any] = {
        "log_to_driver": False, "configure_logging": False, "runtime_env": {"env_vars": shared},
    }  # fmt: skip
    if address == LOCAL:
        settings |= {
            "address": "local", "num_cpus": threads(1), "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }  # fmt: skip
    else:
        if not os.environ.get("RUNG_STORE", "").startswith("postgres"):
            raise ConfigError(
                f"{named} {address} needs a store that all hosts can write, which SQLite is not: set "
                "RUNG_STORE to a PostgreSQL database, and RUNG_HOME to a folder that all hosts see"
            )
        settings["address"] = address
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # its news are told by whoever waits
    try:
        ray.init(**settings)
    except (ConnectionError, OSError, RuntimeError, ValueError) as fault:
        said = " ".join(str(fault).split())[:200]
        raise ClusterError(
            f"Ray at {address} does not answer ({said}): is it running, and is its token here "
            f"({TOKENS[0]} or {TOKENS[1]})?"
        ) from None
    return ray


def _has_token() -> bool:
    """Whether a token of a cluster is where Ray looks for one (Ray 2.60, token authentication)."""
    return any(map(os.environ.get, TOKENS)) or (Path.home() / ".ray" / "auth_token").exists()


def leave(ray: Any) -> None:
    """End a Ray of this machine, or leave a cluster, with everything that was started there."""
    ray.shutdown()


def cores_of_each(ray: Any, count: int) -> int:
    """Cores of each of so many processes: an even part, and no more than one host has."""
    hosts = [n["Resources"].get("CPU", 0.0) for n in ray.nodes() if n["Alive"]]
    return max(1, int(min(sum(hosts) / count, max(hosts, default=1.0))))


def resources_of_each(ray: Any, count: int) -> dict[str, float]:
    """Resources of each of so many processes: cores, and a GPU where the cluster has as many."""
    found: dict[str, float] = {"CPU": cores_of_each(ray, count)}
    if ray.cluster_resources().get("GPU", 0) >= count:
        found["GPU"] = 1
    return found


def reserve(ray: Any, each: Mapping[str, float], count: int, what: str) -> Any:
    """Reserve resources for so many processes, all of them or none, before any of them starts.

    A process that waits for resources which its own parent holds would wait for ever.

    Args:
        each: resources of a process: CPU (cores), GPU, memory (bytes).

    Returns:
        Ray's placement group.

    Raises:
        ClusterError: where the cluster has not so much, or not free.
    """
    found = ray.cluster_resources()
    lacking = [
        f"{_amount(key, count * wanted)} of {_amount(key, found.get(key, 0.0))}"
        for key, wanted in each.items()
        if count * wanted > found.get(key, 0.0)
    ]
    if lacking:
        raise ClusterError(f"{what} asks for {' and '.join(lacking)}: lower it")
    group = ray.util.placement_group([dict(each)] * count, strategy="SPREAD")
    if not group.wait(RESERVE_SECONDS):
        ray.util.remove_placement_group(group)
        raise ClusterError(
            f"{what}: no room for {count} times {', '.join(_amount(k, v) for k, v in each.items())} "
            f"within {RESERVE_SECONDS:.0f} s: others compute there"
        )
    return group


def place(group: Any, index: int, each: Mapping[str, float]) -> dict[str, Any]:
    """Ray's options for a process at one place of a reservation.

    Computing has as many threads as cores; Ray would give it one.
    """
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    return {
        "num_cpus": each.get("CPU", 1), "num_gpus": each.get("GPU", 0),
        "memory": int(each.get("memory", 0)) or None,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(
            placement_group=group, placement_group_bundle_index=index
        ),
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(int(each.get("CPU", 1)))}},
    }  # fmt: skip


def _amount(resource: str, count: float) -> str:
    if resource == "memory":
        return f"{count / 1e9:.1f} GB of memory"
    return f"{math.ceil(count)} {'cores' if resource == 'CPU' else f'{resource}s'}"
