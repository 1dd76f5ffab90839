"""The part Make in a real browser: a plan, rows, edits by hand, and on to a tuning or a climb."""

from __future__ import annotations

import json
import time

import pytest

from rung.store.files import place
from rung.synthesis import topics
from rung.synthesis.kinds import base as kinds_base
from tests.server.browser import browsing, needs_axe, needs_chromium, press_until_warned, show
from tests.server.looks import faults
from tests.server.shop import base_folder, open_shop

pytestmark = [needs_axe, needs_chromium]


@pytest.fixture
def shop(tmp_path, rung_home, jobs_in_threads, monkeypatch):
    monkeypatch.setattr(topics, "MAX_TRIES", 1)
    monkeypatch.setattr(kinds_base, "MAX_CHARACTERS", 40)  # fewer tokens
    base = base_folder(tmp_path / "tiny", max_position_embeddings=1200)
    served = open_shop(base, page=True, jobs=1)
    yield served
    served.stop()


def files(shop):
    return shop.app.state.service.store.files.list(purpose="fine-tune").items


def chosen(page, label: str) -> str:
    """What a select shows."""
    field = page.get_by_label(label, exact=True).locator("visible=true").first
    return page.locator(".q-field").filter(has=field).first.inner_text()


def ask_for_rows(page, shop) -> dict[str, list[str]]:
    """Fill in the form, have topics planned, and rows written about others; what looks wrong."""
    show(page, "Make")
    said = page.get_by_label("What the model should do, in a sentence or two")
    write = page.get_by_role("button", name="Write rows")
    press_until_warned(page, write, "describe what the model should do")
    said.fill("Says numbers, warmly.")
    page.get_by_label("Number of examples").fill("4")
    page.get_by_text("More settings").locator("visible=true").first.click()
    page.get_by_label("language (as-described)", exact=True).click()
    page.get_by_role("option", name="any").click()
    page.get_by_role("button", name="Plan topics").click()
    plan = page.get_by_label("Topics, one in each line")
    page.wait_for_function(
        "() => [...document.querySelectorAll('textarea')].some(t => t.ariaLabel"
        " === 'Topics, one in each line' && t.value)"
    )
    assert plan.input_value() and files(shop) == []
    plan.fill("rain\nlost keys")
    seen = {"form": faults(page)}
    write.click()
    page.get_by_label("Reply of row 1", exact=True).wait_for()
    page.get_by_text("2 of 2 topics have rows").wait_for()
    return seen


def edit_rows(page) -> dict[str, list[str]]:
    """Change one row, remove another, and save; what looks wrong on the way."""
    tune = page.get_by_role("button", name="Tune on them")
    assert tune.is_enabled() and page.get_by_role("button", name="Save").is_disabled()
    page.get_by_label("Reply of row 1", exact=True).fill("It will be fine.")
    page.get_by_role("button", name="Remove row 2").click()
    page.get_by_text("1 edited, 1 removed: not saved yet").wait_for()
    assert tune.is_disabled()  # what stands on the page is in no file yet
    seen = {"rows": faults(page)}
    page.set_viewport_size({"width": 390, "height": 844})
    seen["rows on a phone"] = faults(page)
    page.set_viewport_size({"width": 1200, "height": 800})
    page.get_by_role("checkbox", name="Delete the file as it was").click()
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved 3 rows").wait_for()
    page.get_by_text("edited by hand").wait_for()
    page.get_by_role("button", name="Save").and_(page.locator("[disabled]")).wait_for()
    return seen


def test_from_a_description_to_rows_edited_by_hand(shop):
    from playwright.sync_api import expect

    with browsing(f"{shop.url}/", reduced_motion="reduce") as page:
        seen = ask_for_rows(page, shop)
        (file,) = files(shop)
        asked = page.get_by_label("Prompt of row 1", exact=True).input_value()
        seen |= edit_rows(page)
        end = time.monotonic() + 20
        while len(files(shop)) > 1:  # the old one goes last
            assert time.monotonic() < end
            page.wait_for_timeout(50)
        (saved,) = files(shop)
        assert saved.id != file.id and saved.name == file.name == "says-numbers-warmly.jsonl"
        rows = [json.loads(line) for line in place(saved.stored).read_text("utf-8").split("\n") if line]
        assert len(rows) == 3 and rows[0]["messages"][1]["content"] == "It will be fine."
        assert rows[0]["messages"][0]["content"] == asked
        edits = [row["provenance"].get("edited") for row in rows]
        assert edits == ["by hand", None, None] and rows[0]["provenance"]["teacher"] == "tiny"

        for button, part in (("Tune on them", "Start a tuning"), ("Climb on them", "Start a climb")):
            show(page, "Make")
            page.get_by_role("button", name=button).click()
            page.get_by_text(part).wait_for()
            start = page.get_by_role("button", name="Start", exact=True).locator("visible=true")
            expect(start).to_have_count(1, timeout=30_000)  # two are seen while a tab changes
            assert "says-numbers-warmly.jsonl" in chosen(page, "Data set")

        page.reload()
        show(page, "Make")
        page.get_by_role("button", name="Edit this plan").click()
        page.get_by_text("More settings").locator("visible=true").first.click()
        page.get_by_label("language (as-described)", exact=True).locator("visible=true").wait_for()
        assert "any" in chosen(page, "language (as-described)")
        assert page.get_by_label("Topics, one in each line").input_value() == "rain\nlost keys"
        assert page.get_by_label("Number of examples").input_value() == "4"
        assert "\n".join(f"{stage}: {line}" for stage, told in seen.items() for line in told) == ""
        assert page.said == []
