"""The routes of the API: one file each, found by its name, or an entry point of `rung.routes`.

A file `NAME.py` here assigns `routes`, a `Routes` that declares the scope a key needs.
"""

from __future__ import annotations

from rung.registry import Registry
from rung.server.routing import Routes

registry: Registry[Routes] = Registry("rung.server.routes", "routes", "route", group="rung.routes")
names, get = registry.names, registry.get
