"""The page in a real browser: what a visitor does, from the first question to a tuned model."""

from __future__ import annotations

import importlib.util
import re
import time
from contextlib import nullcontext
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rung.errors import ConfigError
from rung.server.page.mount import Front, Page
from rung.store.climbs import RungRecord
from rung.store.serving import ACTIVE
from tests.server.browser import (
    begin_anew,
    browsing,
    needs_chromium,
    needs_page,
    pick,
    press_until_warned,
    show,
    warned,
)
from tests.server.shop import base_folder, open_shop, rows

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
    page.get_by_label("Message", exact=True).wait_for()


def recorded(service):
    """A climb in the store, ended, with two rungs."""
    store = service.store
    job = store.jobs.list(limit=1).items[0]
    model = store.models.get(job.name)
    task = {"kind": "labels", "metric": "accuracy"}
    climb = store.climbs.create("headlines", task=task, base=model.base, data=model.datasets[0],
                                settings={"given": {}, "knobs": {"requests": 100}})  # fmt: skip
    cost = {"seconds": 1.0, "request_seconds": 0.01, "serving_seconds": 1.0, "total_seconds": 2.0}
    for place, (key, value) in enumerate((("base", 0.5), ("lora", 0.9))):
        found = {
            "metric": "accuracy",
            "value": value,
            "low": value - 0.1,
            "high": value + 0.06,
            "n": 40,
        }
        rung = RungRecord(climb.id, key, key, place, status="succeeded", cost=cost,
                          metrics={"validation": found}, model=model.name)  # fmt: skip
        store.climbs.put(rung)
    said = {"winner": "lora", "says": "lora clears the bar", "model": model.name}
    return store.climbs.update(climb.id, status="succeeded", verdict=said)


@needs_page
@needs_chromium
def test_a_key_is_asked_for_and_heeded(page):
    given = page.get_by_label("API key", exact=True)
    given.fill("another key")
    given.press("Enter")
    page.get_by_text("the API key is missing or wrong").wait_for()
    assert page.get_by_role("tab").count() == 0
    enter(page)
    page.reload()
    page.get_by_label("Message", exact=True).wait_for()  # the tab still knows the key


@needs_page
@needs_chromium
def test_a_data_set_is_shown_with_what_is_learnt_marked(page):
    show(page, "Data")
    file = {"name": "numbers.jsonl", "mimeType": "application/json", "buffer": rows(20)}
    page.locator("input[type=file]").set_input_files(file)
    marked = page.locator("pre mark").filter(has_text=re.compile(r"It is \d+\.")).first
    marked.wait_for()
    row = page.locator("pre").first.inner_text()
    # The reply and its end are learnt, the question is not.
    assert re.fullmatch(r"It is \d+\.<\|im_end\|>\s*", marked.inner_text())
    assert "Say " in row and "Say " not in marked.inner_text()
    bad = {
        "name": "bad.jsonl",
        "mimeType": "application/json",
        "buffer": b'{"prompt": "a", "completion": "b"}\n{"a"',
    }
    page.locator("input[type=file]").set_input_files(bad)
    warned(page, ":2: not JSON")


@needs_page
@needs_chromium
def test_a_tuning_from_the_form_to_the_answer(page):
    show(page, "Jobs")
    page.get_by_text("Start a tuning").click()
    pick(page, "Data set", "numbers.jsonl")
    page.get_by_label("Name", exact=True).fill("coach")
    page.get_by_label("epochs", exact=True).fill("900")  # more than a form should send
    page.get_by_label("batch size", exact=True).fill("0")
    start = page.get_by_role("button", name="Start", exact=True)
    press_until_warned(page, start, "batch_size")
    page.get_by_label("epochs", exact=True).fill("2")
    page.get_by_label("batch size", exact=True).fill("4")
    start.click()
    page.get_by_role("button", name="Chat with it").wait_for(timeout=60_000)
    page.get_by_role("img", name=re.compile(r"Loss: [\d.]+ after step 10")).wait_for()
    page.locator("canvas").first.wait_for()
    page.get_by_role("log", name="Events").get_by_text("Step 10/10").first.wait_for()
    page.get_by_role("button", name="Chat with it").click()
    begin_anew(page)
    box = page.get_by_label("Message", exact=True)
    box.fill("Say 3")
    box.press("Enter")
    for side, model in (("Left", "tiny"), ("Right", "coach")):
        page.get_by_role("log", name=f"{side} conversation").get_by_text("first after").wait_for()
        chosen = page.get_by_label(f"{side} model", exact=True).locator("visible=true").first
        field = page.locator(".q-field").filter(has=chosen).first
        assert model in field.inner_text()


@needs_page
@needs_chromium
def test_a_job_whose_objective_reports_them_shows_rewards_and_divergence(page, shop):
    store = shop.app.state.service.store
    made = store.jobs.list(limit=1, kind="tune").items[0]
    for step, reward in ((11, 0.25), (12, 0.5)):
        figures = {"step": step, "train_loss": 0.1, "train_reward": reward, "train_kl": 0.01 * step}
        store.jobs.say(made.id, [("info", "metrics", f"Step {step}", figures)])
    show(page, "Jobs")
    page.reload()
    show(page, "Jobs")
    page.get_by_text("coach").first.click()
    page.get_by_role("img", name="Reward: 0.5 after step 12").wait_for()
    page.get_by_role("img", name="KL: 0.12 after step 12").wait_for()
    assert page.get_by_role("img", name="Answer length").count() == 0


@needs_page
@needs_chromium
def test_models_tell_their_lineage_and_licence(page):
    show(page, "Models")
    page.get_by_text(re.compile("^coach-")).first.click()
    page.get_by_text("Made from").first.wait_for()
    told = page.locator(".tree").first.inner_text()
    assert "lora" in told and "base tiny" in told and "data " in told
    assert "states no licence" in page.locator(".pairs").nth(1).inner_text()


@needs_page
@needs_chromium
def test_a_climb_with_its_scorecard(page, shop):
    climb = recorded(shop.app.state.service)
    show(page, "Climbs")
    table = page.get_by_role("region", name="Rungs")
    table.get_by_text("winner").wait_for()
    assert page.locator(".title").last.inner_text() == "headlines"
    assert climb.id in page.get_by_role("region", name="Scorecard").inner_text()
    assert "0.900 [0.80, 0.96]" in table.inner_text()
    # One that was interrupted is gone on with by a job, whoever has begun it.
    store = shop.app.state.service.store
    store.climbs.update(climb.id, status="interrupted")
    show(page, "Models")
    show(page, "Climbs")
    page.get_by_role("button", name="Go on").click()
    end = time.monotonic() + 15
    while [j.climb for j in store.jobs.list(kind="climb").items] != [climb.id]:
        assert time.monotonic() < end
        page.wait_for_timeout(100)
    end = time.monotonic() + 60  # the form is what is looked at now, not a form beside a training
    while store.jobs.list(kind="climb").items[0].status in ACTIVE:
        assert time.monotonic() < end
        page.wait_for_timeout(100)
    page.get_by_text("Start a climb").click()
    bar = page.get_by_label("bar", exact=True)
    bar.fill("nonsense")
    assert bar.input_value() == "nonsense"
    start = page.get_by_role("button", name="Start", exact=True).last
    press_until_warned(page, start, "nonsense")


@needs_page
def test_what_went_wrong_stays_until_it_is_closed(monkeypatch):
    from rung.server.page.session import told  # needs NiceGUI

    shown = []
    page = SimpleNamespace(
        notify=lambda *a, **k: shown.append((a, k)), context=SimpleNamespace(client=nullcontext())
    )
    monkeypatch.setattr("rung.server.page.session.ui", page)

    async def fail(fault):
        async with told():
            raise fault

    for fault in (ConfigError("say what is wanted"), KeyError("a fault of the page's own")):
        with pytest.raises(
            StopIteration
        ):  # it waits for nothing, and Playwright holds this thread's loop
            fail(fault).send(None)
    assert [said for said, _ in shown] == [
        ("say what is wanted",),
        ("The page met a fault of its own; the server's log says which.",),
    ]
    assert all(how["timeout"] == 0 and how["close_button"] for _, how in shown)


@needs_page
@needs_chromium
def test_nothing_leaves_the_host_and_nothing_is_wrong(page):
    """Last, since it looks at all that came before."""
    assert len(page.asked) > 5
    hosts = {urlsplit(url).hostname for url in page.asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert page.said == []


@needs_page
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
