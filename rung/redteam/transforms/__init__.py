"""Transformations of attacks: one file each, found by its name, or an entry point of
`rung.redteam.transforms`.
"""

from __future__ import annotations

from rung.redteam.transforms.base import Transform
from rung.registry import Registry

registry: Registry[Transform] = Registry("rung.redteam.transforms", "Transform", "transformation")
names, get = registry.names, registry.get
