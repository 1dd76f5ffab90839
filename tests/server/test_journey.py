"""From an empty home to a chat with the tuned model: desktop and phone, light and dark."""

from __future__ import annotations

import re

import pytest

from tests.server.browser import browsing, needs_axe, needs_chromium, show
from tests.server.looks import faults, in_sight
from tests.server.shop import base_folder, open_shop, rows

pytestmark = [needs_axe, needs_chromium]
SIZES = {"desktop": {"width": 1200, "height": 800}, "phone": {"width": 390, "height": 844}}
PARTS = ("Chat", "Models", "Data", "Make", "Jobs", "Climbs")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_HOME", str(tmp_path_factory.mktemp("home")))
        served = open_shop(base_folder(tmp_path_factory.mktemp("journey") / "tiny"), page=True)
        yield served
        served.stop()


LOOKS = [(size, theme) for size in SIZES for theme in ("light", "dark")]


def some(*looks: tuple[str, str]) -> pytest.MarkDecorator:
    """Run a test on these; on the others it is slow."""
    every = [pytest.param(it, marks=[] if it in looks else pytest.mark.slow) for it in LOOKS]
    return pytest.mark.parametrize("page", every, indirect=True, ids="-".join)


@pytest.fixture
def page(request, shop):
    size, theme = request.param
    store = shop.app.state.service.store
    for file in store.files.list().items:  # as empty as at first
        store.files.remove(file.id)
    for model in list(shop.engine.models.values()):
        if model.root is not None:
            shop.engine.unload(model.name)
    looks = {"viewport": SIZES[size], "color_scheme": theme, "reduced_motion": "reduce"}
    with browsing(f"{shop.url}/", **looks) as it:
        it.get_by_label("Message", exact=True).wait_for()
        it.size, it.called = size, f"{size}{theme}"
        yield it


@some(("desktop", "light"))
def test_from_bringing_data_to_chatting_with_the_result(page):
    seen = {"at first": faults(page)}
    for part in PARTS:
        tab = page.get_by_role("tab", name=part)
        assert in_sight(page, tab)
        show(page, part)
        page.get_by_role("tabpanel").first.wait_for()
        seen[f"{part}, empty"] = faults(page)
    assert page.get_by_role("button", name="Start", exact=True).count() == 0  # the form is folded away

    page.get_by_role("button", name="1. Bring data").click()
    assert page.get_by_role("button", name="Tune on it").is_disabled()  # on nothing
    file = {"name": "numbers.jsonl", "mimeType": "application/json", "buffer": rows(20)}
    page.locator("input[type=file]").set_input_files(file)
    page.locator("pre mark").first.wait_for()
    seen["data"] = faults(page)

    page.get_by_role("button", name="Tune on it").click()
    page.get_by_label("Name", exact=True).fill(page.called)
    page.get_by_label("epochs", exact=True).fill("2")
    page.get_by_label("batch size", exact=True).fill("4")
    seen["form"] = faults(page)
    start = page.get_by_role("button", name="Start", exact=True)
    start.click()
    start.wait_for(state="hidden")  # the form closes by itself
    row = page.get_by_role("listitem").filter(has_text=page.called)
    row.get_by_text("lora on numbers.jsonl").wait_for()
    row.get_by_text(re.compile(r"today \d\d:\d\d UTC")).wait_for()

    chat = page.get_by_role("button", name="Chat with it", exact=True)
    chat.wait_for()
    loss = page.get_by_role("img", name=re.compile(r"Loss: [\d.]+ after step 10"))
    loss.locator("canvas").wait_for()
    assert in_sight(page, loss)
    seen["job"] = faults(page)
    chat.click()

    box, send = page.get_by_label("Message", exact=True), page.get_by_role("button", name="Send")
    stop = page.get_by_role("button", name="Stop")
    assert send.is_disabled() and stop.is_disabled()
    box.fill("Say 3")
    page.wait_for_function("() => [...document.querySelectorAll('button')].some(b =>"
                           " b.innerText.toLowerCase().includes('send') && !b.disabled)")  # fmt: skip
    box.press("Enter")
    page.get_by_text("first after").first.wait_for()
    assert page.locator(".speaker").filter(has_text=page.called).locator("visible=true").count() == 1
    seen["chat"] = faults(page)
    show(page, "Models")
    page.get_by_text(re.compile(f"^{page.called}-")).first.click()
    page.get_by_text("Made from").first.wait_for()
    assert "data numbers.jsonl" in page.locator(".tree").first.inner_text()
    seen["models"] = faults(page)
    assert "\n".join(f"{stage}: {line}" for stage, said in seen.items() for line in said) == ""
    assert page.said == []


@some(("desktop", "light"), ("phone", "dark"))
def test_before_the_first_token_it_says_what_happens(page, shop, monkeypatch):
    import threading

    assert faults(page) == []
    step, held = shop.engine.step, threading.Event()
    monkeypatch.setattr(shop.engine, "step", lambda: held.wait(20) and step())
    page.get_by_label("Message", exact=True).fill("Say 4")
    page.get_by_label("Message", exact=True).press("Enter")
    try:
        page.get_by_text(
            re.compile("(reading the question|waiting for a free place) · [1-9]")
        ).wait_for()
        assert page.get_by_role("button", name="Stop").is_enabled()
        assert page.get_by_role("button", name="Send").is_disabled()
    finally:
        held.set()
    page.get_by_text("first after").wait_for()
    page.get_by_role("button", name="Stop").and_(page.locator("[disabled]")).wait_for()
    assert faults(page) == []
