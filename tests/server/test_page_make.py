"""The part Make in a real browser: a plan, rows, edits by hand, and on to a tuning or a climb."""

from __future__ import annotations

import importlib.util
import json
import os
import re

import pytest

from rung.server import jobs_supervisor
from rung.store.files import place
from rung.synthesis import topics
from tests.engine.world import tiny_llama
from tests.server.browser import CHROMIUM, browsing, warned
from tests.server.looks import faults
from tests.server.shop import open_shop
from tests.server.working import as_thread
from tests.tokens import tiny_tokenizer

pytestmark = [
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("nicegui", "playwright", "axe_playwright_python"))),
        reason="needs the extra 'page', playwright and axe-playwright-python",
    ),
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"), reason="needs Chromium (apt install chromium)"
    ),
]


@pytest.fixture
def shop(tmp_path, rung_home, monkeypatch):
    tiny_llama(max_position_embeddings=1200).save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    monkeypatch.setattr(jobs_supervisor, "_spawn", as_thread)
    monkeypatch.setattr(topics, "MAX_TRIES", 1)
    served = open_shop(tmp_path / "tiny", page=True, jobs=1)
    yield served
    served.stop()


def files(shop):
    return shop.app.state.service.store.files.list(purpose="fine-tune").items


def chosen(page, label: str) -> str:
    """What a select shows."""
    field = page.get_by_label(label, exact=True).locator("visible=true").first
    return page.locator(".q-field").filter(has=field).first.inner_text()


def test_from_a_description_to_rows_edited_by_hand(shop):
    with browsing(f"{shop.url}/", reduced_motion="reduce") as page:
        page.get_by_role("tab", name="Make").click()
        said = page.get_by_label("What the model should do, in a sentence or two")
        write = page.get_by_role("button", name="Write rows")
        write.click()
        warned(page, "describe what the model should do")

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
        reply, prompt = (
            page.get_by_label(f"{name} of row 1", exact=True) for name in ("Reply", "Prompt")
        )
        reply.wait_for()
        (file,) = files(shop)
        asked = prompt.input_value()
        page.get_by_text("2 of 2 topics have rows").wait_for()
        tune = page.get_by_role("button", name="Tune on them")
        assert tune.is_enabled() and page.get_by_role("button", name="Save").is_disabled()
        reply.fill("It will be fine.")
        page.get_by_role("button", name="Remove row 2").click()
        page.get_by_text("1 edited, 1 removed: not saved yet").wait_for()
        assert tune.is_disabled()  # what stands on the page is in no file yet
        seen["rows"] = faults(page)
        page.set_viewport_size({"width": 390, "height": 844})
        seen["rows on a phone"] = faults(page)
        page.set_viewport_size({"width": 1200, "height": 800})
        page.get_by_role("checkbox", name="Delete the file as it was").click()
        page.get_by_role("button", name="Save").click()
        page.get_by_text("Saved 3 rows").wait_for()
        page.get_by_text("edited by hand").wait_for()
        page.get_by_role("button", name="Save").and_(page.locator("[disabled]")).wait_for()

        (saved,) = files(shop)
        assert saved.id != file.id and saved.name == file.name == "says-numbers-warmly.jsonl"
        rows = [json.loads(line) for line in place(saved.stored).read_text("utf-8").split("\n") if line]
        assert len(rows) == 3 and rows[0]["messages"][1]["content"] == "It will be fine."
        assert rows[0]["messages"][0]["content"] == asked
        edits = [row["provenance"].get("edited") for row in rows]
        assert edits == ["by hand", None, None] and rows[0]["provenance"]["teacher"] == "tiny"

        tune.click()
        page.get_by_role("button", name="Start", exact=True).wait_for()
        assert re.search(r"says-numbers-warmly\.jsonl", chosen(page, "Data set"))
        page.get_by_role("tab", name="Make").click()
        page.get_by_role("button", name="Climb on them").click()
        page.get_by_role("button", name="Start", exact=True).locator("visible=true").wait_for()
        assert re.search(r"says-numbers-warmly\.jsonl", chosen(page, "Data set"))
        assert "\n".join(f"{stage}: {line}" for stage, told in seen.items() for line in told) == ""
        assert page.said == []
