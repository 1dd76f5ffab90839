"""A real browser, and a server with a page in a process's one NiceGUI."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from contextlib import contextmanager, suppress

import pytest

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome")
                 if (p := shutil.which(name))), None)  # fmt: skip


def _needs(*modules: str):
    return pytest.mark.skipif(
        not all(map(importlib.util.find_spec, modules)),
        reason="needs the extra 'page', and " + " and ".join(modules[1:]).replace("_", "-"),
    )


needs_page = _needs("nicegui", "playwright")
needs_axe = _needs("nicegui", "playwright", "axe_playwright_python")
# A person without Chromium may skip these; where CI is set they run, and fail without it.
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="needs Chromium (apt install chromium)"
)

# Keeps what clicks have reached, a button by its text.
PRESSED = """window.pressed = []; document.addEventListener(
    "click", (e) => pressed.push((e.target.closest("button") ?? e.target).innerText), true)"""


@contextmanager
def browsing(url: str, **settings):
    """A page of a headless Chromium, with what it asked for and what its console said.

    Yields:
        the page; `.asked` holds the addresses of all requests, `.said` errors and warnings.
    """
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "the page's tests need Chromium: apt install chromium"

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        settings = {"viewport": {"width": 1200, "height": 800}, **settings}
        page = browser.new_context(**settings).new_page()
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("websocket", lambda socket: page.asked.append(socket.url))
        page.on("pageerror", lambda fault: page.said.append(str(fault)))
        page.on(
            "console",
            lambda m: page.said.append(m.text) if m.type in ("error", "warning") else None,
        )
        page.set_default_timeout(60_000)  # a busy machine draws slowly
        page.add_init_script(PRESSED)
        page.goto(url)
        try:
            yield page
        finally:
            browser.close()


def show(page, part: str) -> None:
    """Open a part of the page; a click that reaches no tab on a busy machine is given again."""
    from playwright.sync_api import TimeoutError as TookTooLong

    for _ in range(5):
        page.get_by_role("tab", name=part).click()
        with suppress(TookTooLong):
            page.get_by_role("tab", name=part, selected=True).wait_for(timeout=10_000)
            return
    raise AssertionError(f"{part} does not open; pressed were {page.evaluate('() => window.pressed')}")


def begin_anew(page) -> None:
    """Clear what earlier tests asked, if they asked anything."""
    show(page, "Chat")
    button = page.get_by_role("button", name="New chat")
    if button.is_enabled():
        button.click()


def pick(page, label: str, start: str) -> None:
    """Choose from a list what begins so, and wait until the list is folded again."""
    page.get_by_label(label, exact=True).locator("visible=true").first.click()
    option = page.get_by_role("option", name=re.compile(start)).first
    option.click()
    option.wait_for(state="hidden")


def press_until_warned(page, button, said: str) -> None:
    """Press a button, wait for the line that says what is wrong, and close it.

    A click whose two halves fall on two layouts, since a form is still opening on a busy machine,
    reaches no button and is given again. One that has reached it must be answered.
    """
    page.evaluate("() => { window.pressed = [] }")
    for _ in range(5):
        button.click()
        page.wait_for_timeout(500)
        if button.inner_text() in page.evaluate("() => window.pressed"):
            break
    warned(page, said)


def warned(page, said: str) -> None:
    """Wait for the line that says what went wrong, and close it; one closed before may still fade."""
    line = page.get_by_role("alert").filter(has_text=said).first
    try:
        line.wait_for()
    except Exception as fault:
        alerts = page.get_by_role("alert").all_inner_texts()
        seen = page.locator("body").inner_text()
        raise AssertionError(
            f"no alert says {said!r}, but {alerts}; the console said {page.said}; pressed were "
            f"{page.evaluate('() => window.pressed')}, on a page of: {seen}"
        ) from fault
    line.get_by_role("button", name="Close").click()
    line.wait_for(state="hidden")
