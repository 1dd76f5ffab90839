"""What was run and made, from what, under which licence; and folders on disk that are safe.

Importing this package costs milliseconds: SQLAlchemy comes with the first use of `Store`.

    from rung.store import Store
    store = Store.open()
    store.models.list()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rung.store.store import Store

__all__ = ["Store"]


def __getattr__(name: str) -> Any:
    if name == "Store":
        from rung.store.store import Store

        return Store
    raise AttributeError(f"module 'rung.store' has no attribute '{name}'")
