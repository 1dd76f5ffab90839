"""The review page in a browser as wide as a phone: what is touched there is what is saved."""

from __future__ import annotations

import csv
from pathlib import Path

from rung.mapping.climb import climb
from rung.mapping.review import write_review
from rung.mapping.table import rows_of
from tests.mapping.world import known, problem
from tests.server.browser import browsing


def test_what_is_reviewed_is_saved_as_pairs(tmp_path):
    outcome = climb(problem(known(2), sure=1.0))
    page_path = tmp_path / "mapping.html"
    shown = write_review(outcome, rows_of(outcome), page_path)
    assert shown > 3
    with browsing(page_path.as_uri(), viewport={"width": 375, "height": 700}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        sets = page.locator("fieldset")
        assert sets.count() == shown
        left = [sets.nth(i).get_attribute("data-left") for i in range(3)]
        kept = sets.nth(0).locator("input[type=radio]:checked")
        expected = kept.get_attribute("value")
        kept.click()  # accepted as it is marked
        sets.nth(1).get_by_text("none of these").click()
        sets.nth(2).locator("input[type=text]").fill("nobody")
        page.click("#save")  # an id that is not there is not saved
        assert sets.nth(2).locator("input[type=text]").get_attribute("aria-invalid") == "true"
        sets.nth(2).locator("input[type=text]").fill("r07")
        assert page.locator("#count").inner_text() == "3 reviewed"
        with page.expect_download() as download:
            page.click("#save")
        with Path(download.value.path()).open(encoding="utf-8", newline="") as file:
            saved = list(csv.DictReader(file))
        assert all(a.startswith(("file:", "blob:")) for a in page.asked)
        assert page.said == []
    assert saved == [
        {"left": left[0], "right": expected},
        {"left": left[1], "right": ""},
        {"left": left[2], "right": "r07"},
    ]
