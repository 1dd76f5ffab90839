"""A tuning by preferences from the page's form: its objective, and the method that carries it."""

from __future__ import annotations

import json

import httpx
import pytest

from rung import methods, objectives
from tests.server.browser import browsing, needs_chromium, needs_page, pick, show
from tests.server.shop import base_folder, open_shop

pytestmark = [needs_page, needs_chromium]


@pytest.fixture
def shop(tmp_path, rung_home, jobs_in_threads):
    served = open_shop(base_folder(tmp_path / "tiny"), page=True, jobs=1)
    yield served
    served.stop()


def test_preferences_are_tuned_from_the_form(shop):
    pairs = [{"prompt": f"Say {i}", "chosen": f"{i} it is", "rejected": "no"} for i in range(8)]
    rows = "\n".join(map(json.dumps, pairs)).encode()
    sent = httpx.post(
        f"{shop.url}/v1/files", data={"purpose": "fine-tune"}, files={"file": ("pairs.jsonl", rows)}
    )
    assert sent.status_code == 200
    usual = objectives.get("dpo").usual(methods.get("prompt_tuning").defaults)["lr"]
    with browsing(f"{shop.url}/", reduced_motion="reduce") as page:
        show(page, "Jobs")
        page.get_by_text("Start a tuning").click()
        page.locator(".q-field").filter(has_text="pairs.jsonl").locator("visible=true").first.wait_for()
        pick(page, "Objective", "dpo:")
        page.get_by_text("Settings of dpo").wait_for()
        page.get_by_label("epochs", exact=True).fill("1")  # outlives that another method is picked
        pick(page, "Method", "prompt tuning:")
        page.get_by_text("Settings of prompt tuning").wait_for()
        page.get_by_text("Settings of dpo").locator("visible=true").click()
        page.get_by_label("beta", exact=True).locator("visible=true").fill("0.3")
        assert page.get_by_label("lr", exact=True).get_attribute("placeholder") == str(usual)
        page.get_by_role("button", name="Start", exact=True).click()
        listed = page.get_by_role("list", name="Jobs")
        listed.get_by_text("prompt tuning by dpo on pairs.jsonl").wait_for()
        (job,) = shop.app.state.service.store.jobs.list(kind="tune").items
        page.get_by_role("button", name="Chat with it").wait_for()
    asked = {key: job.settings[key] for key in ("objective", "method", "beta", "epochs")}
    assert asked == {"objective": "dpo", "method": "prompt_tuning", "beta": 0.3, "epochs": 1}
