"""The first steps of a server that has made nothing yet: bring data, tune, chat with the result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nicegui import ui

from rung.errors import RungError
from rung.server.page.session import Visit
from rung.store.serving import ACTIVE

STEPS = (
    ("Data", "Bring data", "upload_file"),
    ("Jobs", "Tune a model", "model_training"),
    ("Chat", "Chat with the result", "forum"),
)  # the part of the page that a step is done in, its words, its icon


@dataclass(frozen=True)
class Progress:
    """How far a visitor has come: `done` counts the steps; `busy` says that a tuning is at work."""

    done: int
    busy: bool = False


def progress(visit: Visit) -> Progress:
    """Read from store and engine how far a visitor has come."""
    store, owner = visit.service.store, visit.owner()
    jobs = store.jobs.list(limit=20, kind="tune", owner=owner).items
    if made(visit):
        return Progress(2)
    busy = any(job.status in ACTIVE for job in jobs)
    files = store.files.list(purpose="fine-tune", limit=1, owner=owner).items
    return Progress(1 if files or busy else 0, busy)


def made(visit: Visit) -> bool:
    """Whether a model is served that is not the bare base."""
    return any(model.root is not None for model in visit.service.engine.models.values())


def build(visit: Visit) -> Callable[[], Awaitable[None]]:
    """Show the steps where nothing has been made yet; returns what brings them up to date."""
    place = ui.row().classes("steps").props('role=navigation aria-label="First steps"')
    place.set_visibility(False)
    drawn: list[Progress] = []
    wanted = not made(visit)

    async def refresh() -> None:
        if not wanted or place.is_deleted:
            return
        try:
            now = await visit.read("train", lambda: progress(visit))
        except RungError:  # a key that may only ask has no steps to take
            return
        if drawn[-1:] != [now]:
            drawn.append(now)
            _draw(visit, place, now)

    return refresh


def _draw(visit: Visit, place: ui.row, now: Progress) -> None:
    place.clear()
    place.set_visibility(True)
    with place:
        for number, (part, words, icon) in enumerate(STEPS):
            done, current = number < now.done, number == now.done
            if part == "Jobs" and current and now.busy:
                words = "Tuning"
            button = ui.button(
                f"✓ {words}" if done else f"{number + 1}. {words}", icon=None if done else icon,
                on_click=lambda part=part: visit.show(part),
            ).props("no-caps dense unelevated" if current else "no-caps dense flat")  # fmt: skip
            button.classes("step")
            if number > now.done:
                button.props("disable")
            if current:
                button.props("aria-current=step")
