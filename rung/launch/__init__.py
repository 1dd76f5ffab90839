"""Where a training runs: one file each, found by its name, or an entry point of `rung.launch`.

A launch is what the training loop asks of the processes that train together. Whoever starts them stands
above: this is below the loop.
"""

from __future__ import annotations

from rung.launch.base import Launch
from rung.registry import Registry

__all__ = ["Launch", "chosen", "get", "here", "names", "registry"]

registry: Registry[Launch] = Registry("rung.launch", "Launch", "launch")
names, get = registry.names, registry.get


def here() -> Launch | None:
    """The launch that started this process beside others, as the environment says; None: no launch."""
    return next((launch for launch in registry.all() if launch.here), None)


def chosen(name: str) -> Launch:
    """The launch that this process trains by: the one that started it, else the one of that name.

    Raises:
        ConfigError: for an unknown name.
    """
    return here() or get(name)
