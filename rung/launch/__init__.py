"""Where a training runs: one file each, found by its name, or an entry point of `rung.launch`.

A launch is what the training loop asks of the processes that train together. Whoever starts them stands
above: this is below the loop.
"""

from __future__ import annotations

from rung.launch.base import Launch
from rung.registry import Registry

__all__ = ["Launch", "get", "names", "registry"]

registry: Registry[Launch] = Registry("rung.launch", "Launch", "launch")
names, get = registry.names, registry.get
