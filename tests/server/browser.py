"""A real browser, and a server with a page in a process's one NiceGUI."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome")
                 if (p := shutil.which(name))), None)  # fmt: skip


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
        page.goto(url)
        try:
            yield page
        finally:
            browser.close()


def warned(page, said: str) -> None:
    """Wait for the line that says what went wrong, and close it; one closed before may still fade."""
    line = page.get_by_role("alert").filter(has_text=said).first
    try:
        line.wait_for()
    except Exception as fault:
        alerts = page.get_by_role("alert").all_inner_texts()
        seen = page.locator("body").inner_text()
        raise AssertionError(
            f"no alert says {said!r}, but {alerts}; the console said {page.said}, on a page of: {seen}"
        ) from fault
    line.get_by_role("button", name="Close").click()
    line.wait_for(state="hidden")
