"""Where a training's figures go beside the terminal: one file each, found by its name.

A file `NAME.py` here, or an entry point NAME in the group `rung.trackers`, holds a class `Tracker`.
"""

from __future__ import annotations

from rung.registry import Registry
from rung.trackers.base import TrackedRun, Tracker

__all__ = ["TrackedRun", "Tracker", "get", "make", "names", "registry"]

registry: Registry[Tracker] = Registry("rung.trackers", "Tracker", "tracker")
names, get = registry.names, registry.get


def make(name: str) -> Tracker:
    """A tracker for one run, told whether it can work here.

    Raises:
        ConfigError: for an unknown name, or a package that is not installed.
    """
    tracker = type(get(name))(name)
    tracker.check()
    return tracker
