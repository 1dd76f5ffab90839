"""One browser's view of the server: who it is, and what all parts of the page need."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from anyio.to_thread import run_sync
from nicegui import ui

from rung.errors import RungError
from rung.server.access import Account
from rung.server.page.client import Api

if TYPE_CHECKING:
    from fastapi import FastAPI

    from rung.server.state import Service

T = TypeVar("T")
log = logging.getLogger("rung.server")


async def _nothing() -> None:
    pass


@dataclass
class Visit:
    """What the parts of the page share while a browser looks at it.

    Attributes:
        key: what the visitor has typed, where a key is needed.
        show: brings a part of the page to the front, by its name.
        chosen: what a part should begin with when it comes to the front, by its name.
        narrow: whether the window is as narrow as a phone's.
        stepped: brings the first steps up to date.
    """

    service: Service
    app: FastAPI
    key: str | None = None
    show: Callable[[str], None] = lambda name: None
    chosen: dict[str, str] = field(default_factory=dict)
    narrow: bool = False
    stepped: Callable[[], Awaitable[None]] = _nothing

    def __post_init__(self) -> None:
        self.api = Api(self.app, self.key)

    def use(self, key: str | None) -> None:
        """Ask with this key from now on."""
        self.key, self.api = key, Api(self.app, key)

    @property
    def _sent(self) -> str:
        """The key as it would come over HTTP."""
        return f"Bearer {self.key or ''}".encode().decode("latin-1")

    async def admit(self, scope: str | None = None) -> None:
        """Raises ApiError where the visitor's key is wrong, or does not open that."""
        access = self.service.access
        if access.stale:
            await run_sync(access.refresh)
        key = access.find(self._sent)
        if scope is not None:
            Account(key).needs(scope)

    def owner(self) -> str | None:
        """The key whose files and jobs the visitor sees; None where all are seen.

        Raises:
            ApiError: where the visitor's key is wrong.
        """
        key = self.service.access.find(self._sent)
        return None if key is None else key.owner

    async def read(self, scope: str | None, work: Callable[[], T]) -> T:
        """What `work` returns, done in a thread, for who may see it."""
        await self.admit(scope)
        return await run_sync(work)


@asynccontextmanager
async def told(*held: ui.button) -> AsyncIterator[None]:
    """Show what goes wrong as one line at the foot of the page, until it is closed.

    Args:
        held: buttons that are off meanwhile, so that a second click does not order the same again.
    """
    client = ui.context.client  # what was clicked may be gone by then, and its place with it
    for button in held:
        button.disable()
    try:
        yield
    except RungError as fault:
        with client:
            _warn(str(fault))
    except Exception:
        log.exception("the page met a fault")
        with client:
            _warn("The page met a fault of its own; the server's log says which.")
    finally:
        for button in held:
            if not button.is_deleted:
                button.enable()


def _warn(said: str) -> None:
    # Without a limit of time: who looks away for some seconds would not learn why nothing happened.
    ui.notify(said, type="negative", multi_line=True, close_button="Close", timeout=0)
