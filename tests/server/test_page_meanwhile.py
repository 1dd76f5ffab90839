"""The page in a real browser, where something else happens while it waits: nothing gets lost."""

from __future__ import annotations

import asyncio
import re
import time
from types import SimpleNamespace

import pytest

from rung.server.page import climbs, rows
from rung.server.page.client import Api
from rung.server.page.job_view import Watch
from rung.store.records import BaseRecord, DatasetRecord
from rung.store.serving import EventRecord, JobRecord
from tests.server.browser import browsing, needs_chromium, needs_page, show, warned
from tests.server.shop import base_folder, client_of, open_shop, upload
from tests.server.shop import rows as content

pytestmark = [needs_page, needs_chromium]
FILES = ("first.jsonl", "second.jsonl")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_HOME", str(tmp_path_factory.mktemp("home")))
        served = open_shop(base_folder(tmp_path_factory.mktemp("page") / "tiny"), page=True)
        with client_of(served) as client:
            ids = [upload(client, content(4 + n), name).id for n, name in enumerate(FILES)]
        yield SimpleNamespace(
            url=served.url, engine=served.engine, ids=ids, service=served.app.state.service
        )
        served.stop()


@pytest.fixture
def page(shop):
    with browsing(f"{shop.url}/") as opened:
        opened.get_by_label("Message", exact=True).wait_for()
        yield opened
        assert opened.said == []


def choose(page, label: str, start: str) -> None:
    """Choose from a list without a look at what comes of it."""
    page.get_by_label(label, exact=True).locator("visible=true").first.click()
    option = page.get_by_role("option", name=start).first
    option.click()
    option.wait_for(state="hidden")


def test_what_one_was_asked_about_is_deleted_though_the_list_has_moved_on(page, shop):
    show(page, "Data")
    with client_of(shop) as client:
        third = upload(client, content(9), "third.jsonl")
    page.reload()
    show(page, "Data")
    choose(page, "Data set", "third.jsonl")
    page.get_by_role("button", name="Delete", exact=True).locator("visible=true").click()
    page.get_by_text("Delete third.jsonl").wait_for()
    fourth = {"name": "fourth.jsonl", "mimeType": "application/json", "buffer": content(5)}
    page.locator("input[type=file]").set_input_files(fourth)
    page.locator("pre").first.wait_for()  # it is shown, and chosen
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Delete").click()
    dialog.wait_for(state="hidden")

    def names():
        return {f.name for f in shop.service.store.files.list(purpose="fine-tune").items}

    end = time.monotonic() + 20
    while "third.jsonl" in names():
        assert time.monotonic() < end
        page.wait_for_timeout(50)
    assert names() == {*FILES, "fourth.jsonl"}
    assert third.id not in {f.id for f in shop.service.store.files.list().items}


def test_a_file_that_is_read_slowly_does_not_replace_the_one_chosen_after_it(page, shop, monkeypatch):
    read = rows.read

    def slow(visit, file):
        time.sleep(2 if file == shop.ids[0] else 0)
        return read(visit, file)

    monkeypatch.setattr(rows, "read", slow)
    show(page, "Make")
    choose(page, "Rows of", FILES[0])
    choose(page, "Rows of", FILES[1])
    page.get_by_label("Reply of row 5", exact=True).fill("kept")
    page.wait_for_timeout(2500)
    assert page.get_by_label("Reply of row 5", exact=True).input_value() == "kept"
    page.get_by_text("1 edited: not saved yet").wait_for()


def test_two_clicks_order_one_tuning(page, monkeypatch):
    post, ordered = Api.post, []

    async def slow(self, path, **request):
        ordered.append(path)
        await asyncio.sleep(1)
        return await post(self, path, **request)

    monkeypatch.setattr(Api, "post", slow)
    show(page, "Jobs")
    page.get_by_text("Start a tuning").click()
    page.get_by_label("batch size", exact=True).fill("0")  # is refused
    start = page.get_by_role("button", name="Start", exact=True).locator("visible=true")
    start.dblclick()
    warned(page, "batch_size")
    assert ordered == ["/v1/fine_tuning/jobs"] and start.is_enabled()


def begun(shop, name: str, **values):
    """A climb of the store that somebody else is at."""
    store = shop.service.store
    task = {"kind": "labels", "metric": "accuracy"}
    sources = {"base": BaseRecord("b", "tiny", "tiny"), "data": DatasetRecord("d", "grain")}
    settings = {"given": {}, "knobs": {"requests": 100}}
    climb = store.climbs.create(name, task=task, settings=settings, **sources)
    store.jobs.put(
        JobRecord(
            f"climb-{name}", "paused", "tiny", "tiny", name, "", kind="climb", climb=climb.id,
            settings={},
        )
    )  # fmt: skip
    return store.climbs.update(climb.id, **values)


def test_a_report_and_a_log_stay_open_while_the_climb_goes_on(page, shop):
    begun(shop, "wheat", status="running")
    show(page, "Climbs")
    page.get_by_text("What it says").click()
    log = page.locator(".lines").locator("visible=true").first
    log.wait_for()
    page.get_by_role("button", name="Whole report").click()
    page.locator("iframe").wait_for()
    shop.service.store.jobs.say("climb-wheat", [("info", "message", "A rung is done", {})])
    log.filter(has_text="A rung is done").wait_for(state="attached")
    shop.service.store.climbs.update(
        next(c.id for c in shop.service.store.climbs.list() if c.name == "wheat"),
        verdict={"says": "nothing yet"},
    )
    page.get_by_text("nothing yet").wait_for(state="attached")
    page.wait_for_timeout(500)
    assert page.locator("iframe").is_visible()
    page.get_by_role("button", name="Close").click()
    log.wait_for()


def test_a_climb_that_is_read_slowly_is_not_shown_below_another(page, shop, monkeypatch):
    for name in ("barley", "oats"):
        begun(shop, name, status="succeeded")
    see = climbs.see

    def slow(visit, record, job):
        time.sleep(1.5 if record.name == "barley" else 0)
        return see(visit, record, job)

    show(page, "Climbs")
    title = page.locator(".title").locator("visible=true").last
    title.filter(has_text="oats").wait_for()
    choose(page, "Climb", "wheat")
    title.filter(has_text="wheat").wait_for()
    monkeypatch.setattr(climbs, "see", slow)
    choose(page, "Climb", "barley")
    choose(page, "Climb", "oats")
    page.wait_for_timeout(2500)
    assert title.inner_text() == "oats"


def test_a_card_of_a_model_whose_name_went_to_a_newer_one_says_so(page, shop):
    from tests.server.test_page_chat import load_calm

    catalogue = shop.service.catalogue
    load_calm(shop.engine)
    catalogue._stored["calm"] = "calm-1"
    show(page, "Models")
    page.get_by_text("calm-1", exact=True).click()
    catalogue._stored["calm"] = "calm-2"
    # Of the card, which may not be there yet, and none of the steps at the top.
    page.get_by_role("button", name=re.compile("chat$", re.IGNORECASE)).locator("visible=true").click()
    warned(page, "calm-1 is not served any more")
    shop.engine.unload("calm")


def test_events_that_two_hear_at_once_are_written_once():
    watch = Watch("job")
    heard = [EventRecord(n, "job", "info", "message", f"line {n}", {}, "now") for n in (1, 2)]
    assert watch.keep(heard[:1]) == heard[:1] and watch.keep(heard) == heard[1:]


def test_what_is_asked_for_ends_where_nobody_waits_for_its_beginning():
    """An answer whose status comes at its end, as that of a model with tools does."""
    told = []

    async def never_begins(scope, receive, send):
        await receive()
        told.append((await receive())["type"])

    async def ask_and_leave():
        api = Api(never_begins)
        asking = asyncio.create_task(api.get("/"))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0.05)

    # Playwright holds the loop of a thread that has browsed.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, ask_and_leave()).result(timeout=30)
    assert told == ["http.disconnect"]
