"""The page in a real browser: what a visitor does, from the first question to a tuned model."""

from __future__ import annotations

import importlib.util
import re
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rung.server.page.front import Front, Page
from tests.server.browser import CHROMIUM, browsing
from tests.server.shop import base_folder, open_shop

nicegui = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("nicegui", "playwright"))),
    reason="needs the extra 'page', and playwright",
)
chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
KEY = "a key for the page"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    served = open_shop(
        base_folder(tmp_path_factory.mktemp("page") / "tiny"), api_keys=(KEY,), page=True
    )
    yield served
    served.stop()


@pytest.fixture(scope="module")
def page(shop):
    with browsing(f"{shop.url}/") as opened:
        yield opened


def enter(page) -> None:
    page.get_by_label("API key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    page.get_by_label("Message to both").wait_for()


@nicegui
@chromium
def test_a_key_is_asked_for_and_heeded(page):
    given = page.get_by_label("API key", exact=True)
    given.fill("another key")
    given.press("Enter")
    page.get_by_text("the API key is missing or wrong").wait_for()
    assert page.get_by_role("tab").count() == 0
    enter(page)
    page.reload()
    page.get_by_label("Message to both").wait_for()  # the tab still knows the key


@nicegui
@chromium
def test_two_models_answer_side_by_side(page):
    box = page.get_by_label("Message to both")
    box.fill("Say 3")
    box.press("Shift+Enter")
    assert box.input_value() == "Say 3\n"
    box.press("Enter")
    for side in ("Left", "Right"):
        log = page.get_by_role("log", name=f"{side} conversation")
        log.get_by_text(re.compile(r"\d+ tokens")).wait_for()
        assert log.locator(".answered").inner_text()
    answers = page.locator(".answered").all_inner_texts()
    assert answers[0] == answers[1]  # the same base under the same name
    assert box.input_value() == ""


@nicegui
@chromium
def test_escape_stops(page, shop):
    page.get_by_role("button", name="New chat").click()
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Temperature").fill("2")
    page.get_by_label("Tokens at most").fill("400")
    box = page.get_by_label("Message to both")
    box.fill("Say 4")
    box.press("Enter")
    page.locator(".answered").first.filter(has_text=re.compile(".")).wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("stopped", exact=True).first.wait_for()
    for _ in range(50):
        if not shop.app.state.traffic.in_flight:
            break
        page.wait_for_timeout(100)
    assert shop.app.state.traffic.in_flight == 0


@nicegui
@chromium
def test_nothing_leaves_the_host_and_nothing_is_wrong(page):
    """Last, since it looks at all that came before."""
    assert len(page.asked) > 5
    hosts = {urlsplit(url).hostname for url in page.asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert page.said == []


@nicegui
def test_the_api_is_what_it_is_without_the_page(shop):
    head = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=shop.url) as http:
        assert http.get("/v1/models").status_code == 401
        missing = http.get("/nowhere", headers=head)
        assert missing.status_code == 404 and "no such address" in missing.json()["error"]["message"]
        assert http.post("/", headers=head).status_code == 404
        assert http.get("/").headers["content-type"].startswith("text/html")


def test_without_the_extra_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    api = FastAPI()
    api.add_middleware(Front, page=Page(api, None))
    with TestClient(api) as client:
        answer = client.get("/")
        assert "pip install 'rung[page]'" in answer.text and answer.text.count("\n") == 1
        assert client.get("/openapi.json").status_code == 200
        assert client.get("/_nicegui/x").status_code == 404
