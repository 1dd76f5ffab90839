"""The frame of the page: title, parts, theme, and the key where one is needed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI

os.environ.setdefault("NICEGUI_STORAGE_PATH", os.devnull)  # nothing is kept between visits

from nicegui import app as nicegui_app  # noqa: E402
from nicegui import ui  # noqa: E402

from rung.errors import RungError  # noqa: E402
from rung.server.page import chat, climbs, data, jobs, make, models, steps  # noqa: E402
from rung.server.page.session import Visit  # noqa: E402

if TYPE_CHECKING:
    from rung.server.state import Service

STYLE = Path(__file__).with_name("page.css")
PARTS = {
    "Chat": ("forum", chat.build),
    "Models": ("account_tree", models.build),
    "Data": ("dataset", data.build),
    "Make": ("draw", make.build),
    "Jobs": ("show_chart", jobs.build),
    "Climbs": ("stairs", climbs.build),
}
THEMES = {"auto": None, "light": False, "dark": True}
ICONS = {"auto": "brightness_auto", "light": "light_mode", "dark": "dark_mode"}
NARROW = 700  # CSS pixels of a window below which two conversations do not stand side by side
AWAY = 60.0  # seconds that a phone may sleep before its page begins anew


_shown: tuple[Service, FastAPI] | None = None  # whose page it is


def build(service: Service, api: FastAPI) -> FastAPI:
    """NiceGUI's application with the page of a service at its root; once built, of the next service."""
    global _shown
    first, _shown = _shown is None, (service, api)
    if first:
        _build()
    return nicegui_app


def _build() -> None:
    @ui.page("/")
    async def page() -> None:
        assert _shown is not None
        await _show(Visit(*_shown))

    holder = FastAPI()  # only carries the settings: requests go straight to NiceGUI's application
    ui.run_with(
        holder, title="Rung", dark=None, tailwind=False, favicon="🪜", reconnect_timeout=AWAY,
        show_welcome_message=False, language="en-GB",
    )  # fmt: skip


async def _show(visit: Visit) -> None:
    ui.add_css(STYLE)
    ui.colors(
        primary="#1d5fa8", secondary="#3d7a5f", accent="#8a5a00", dark_page="#14171a", dark="#1c2024"
    )
    bar = ui.header().classes("bar")
    body = ui.column().classes("body").props("role=main")
    ui.skip_link("Skip to the content", target=body)
    with bar:
        ui.label("Rung").classes("brand").props("role=heading aria-level=1")
        place = ui.row().classes("place")
        await_theme = _theme()
    browser = ui.context.client
    await browser.connected()
    with contextlib.suppress(TimeoutError):  # a browser that has no storage, or is slow
        await await_theme()
        visit.narrow = await ui.run_javascript("innerWidth") < NARROW
    if browser.has_socket_connection:  # else it has gone already
        visit.use(nicegui_app.storage.tab.get("key"))
        await _enter(visit, place, body)


async def _enter(visit: Visit, place: ui.row, body: ui.column) -> None:
    """The parts, or the question for a key where the visitor has none that is known."""
    try:
        await visit.admit()
    except RungError:
        with body:
            _ask(visit, place, body)
        return
    body.clear()
    with place:
        tabs = ui.tabs().classes("tabs").props("inline-label mobile-arrows outside-arrows")
        with tabs:
            for name, (icon, _) in PARTS.items():
                ui.tab(name, icon=icon)
    with body:
        visit.stepped = steps.build(visit)
        panels = ui.tab_panels(tabs, value="Chat").classes("panels").props("keep-alive")
    refresh: dict[str, Callable] = {}
    with panels:
        for name, (_, make) in PARTS.items():
            with ui.tab_panel(name).classes("panel"):
                refresh[name] = make(visit)

    async def shown() -> None:
        await refresh[tabs.value]()
        await visit.stepped()

    def show(name: str) -> None:
        tabs.set_value(name)

    visit.show = show
    panels.on_value_change(shown)
    await shown()


def _ask(visit: Visit, place: ui.row, body: ui.column) -> None:
    with ui.card().classes("key"):
        ui.label("This server wants an API key").classes("title").props("role=heading aria-level=2")
        given = ui.input("API key", password=True, password_toggle_button=True).props(
            'outlined autofocus autocomplete="off" error-message="This key is not known here"'
        )

        async def try_it() -> None:
            visit.use((given.value or "").strip())
            try:
                await visit.admit()
            except RungError as fault:
                given.props("error").props["error-message"] = str(fault)
                given.update()
                return
            nicegui_app.storage.tab["key"] = visit.key
            body.clear()
            await _enter(visit, place, body)

        given.on("keydown.enter", try_it)
        ui.button("Enter", on_click=try_it)
        ui.label("It stays in this tab and in the server's memory, and is written nowhere.").classes(
            "faint"
        )


def _theme() -> Callable:
    """A button for auto, light and dark; the browser remembers which."""
    dark = ui.dark_mode(None)
    now = {"name": "auto"}

    def use(name: str) -> None:
        now["name"] = name
        dark.value = THEMES[name]
        button.props(f'icon={ICONS[name]} aria-label="Theme: {name}"')
        hint.text = f"Theme: {name}"

    def turn() -> None:
        names = list(THEMES)
        use(names[(names.index(now["name"]) + 1) % len(names)])
        ui.run_javascript(f"localStorage.setItem('rung-theme', '{now['name']}')")

    async def remembered() -> None:
        name = await ui.run_javascript("localStorage.getItem('rung-theme')")
        use(name if name in THEMES else "auto")

    with ui.button(on_click=turn).props("flat round color=white") as button:
        hint = ui.tooltip("")
    use("auto")
    return remembered
