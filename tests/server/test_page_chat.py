"""The page's chat in a real browser: one question, two models, and what may come between."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time

import pytest
import torch

from rung.forward.adapter import Adapter
from rung.forward.steer import SteerOp, last_modules
from rung.server.page.chat import Settings
from rung.server.page.client import Api
from tests.server.browser import begin_anew, browsing, needs_chromium, needs_page, show
from tests.server.shop import base_folder, open_shop
from tests.tokens import tiny_tokenizer

END = str(tiny_tokenizer().eos_token_id)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    served = open_shop(base_folder(tmp_path_factory.mktemp("chat") / "tiny"), page=True)
    yield served
    served.stop()


@pytest.fixture(scope="module")
def page(shop):
    with browsing(f"{shop.url}/") as opened:
        opened.get_by_label("Message", exact=True).wait_for()
        yield opened


def load_calm(engine) -> None:
    """Load a steered model, by the name of calm."""
    base = next(m for m in engine.models.values() if m.root is None)
    modules = last_modules(engine.bank)
    vector = torch.randn(engine.bank.width, generator=torch.Generator().manual_seed(0))
    adapter = Adapter(linear={modules[1]: SteerOp(vector, 0.5)})
    engine.load(dataclasses.replace(base, name="calm", root=base.name), adapter)


@needs_page
@needs_chromium
def test_two_models_answer_side_by_side(page):
    page.get_by_text("Two models").click()
    box = page.get_by_label("Message", exact=True)
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


@needs_page
@needs_chromium
def test_a_steered_model_is_asked_at_the_strength_of_its_slider(page, shop):
    engine = shop.engine
    load_calm(engine)
    model = page.get_by_role("combobox", name="Right model")
    before = model.input_value()
    slider = page.get_by_role("slider", name="Strength of the right model")
    assert slider.count() == 0  # the base has none
    try:
        show(page, "Models")
        show(page, "Chat")
        model.click()
        page.get_by_role("option", name="calm").click()
        slider.wait_for()
        said = page.get_by_text(re.compile(r"^Strength "))
        assert said.inner_text() == "Strength 0.5 (its own)"
        for strength in (0.6, 0.7, 0.8, 0.9, 1):  # each press once the last is shown
            slider.locator("[tabindex]").press("ArrowRight")
            page.get_by_text(f"Strength {strength:g} (its own is 0.5)").wait_for()
        box = page.get_by_label("Message", exact=True)
        box.fill("Say 3")
        box.press("Enter")
        log = page.get_by_role("log", name="Right conversation")
        log.get_by_text(re.compile(r"\d+ tokens")).wait_for()
        assert 1.0 in {a.strength for a in engine.bank.adapters.values()}
    finally:
        model.click()
        page.get_by_role("option", name=before, exact=True).click()
        slider.wait_for(state="hidden")
        engine.unload("calm")


@needs_page
@needs_chromium
def test_escape_stops(page, shop, monkeypatch):
    step, asked = shop.engine.step, Settings.body
    endless = {"seed": 4, "logit_bias": {END: -100}}  # no draw may end it before the key does
    monkeypatch.setattr(shop.engine, "step", lambda: time.sleep(0.02) or step())  # time to press it
    monkeypatch.setattr(Settings, "body", lambda self: asked(self) | endless)
    begin_anew(page)
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Temperature").fill("2")
    page.get_by_label("Tokens at most").fill("400")
    box = page.get_by_label("Message", exact=True)
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


@needs_page
@needs_chromium
def test_a_question_with_an_empty_answer_can_be_cleared_away(page, monkeypatch):
    monkeypatch.setattr(Settings, "body", lambda self: {"logit_bias": {END: 100}})
    begin_anew(page)
    box = page.get_by_label("Message", exact=True)
    box.fill("Say 5")
    box.press("Enter")
    log = page.get_by_role("log", name="Left conversation")
    log.get_by_text(re.compile(r"^1 tokens")).wait_for()
    page.get_by_role("button", name="New chat").click()
    log.get_by_text("Say 5").wait_for(state="detached")


@needs_page
@needs_chromium
def test_a_question_put_while_models_are_looked_up_is_answered_by_those_then_chosen(
    page, shop, monkeypatch
):
    get = Api.get

    async def slow(self, path, **params):
        found = await get(self, path, **params)
        if path == "/v1/models":
            await asyncio.sleep(2)
        return found

    monkeypatch.setattr(Api, "get", slow)
    load_calm(shop.engine)
    page.reload()
    box = page.get_by_label("Message", exact=True)
    box.fill("Say 6")
    box.press("Enter")
    for side in ("Left", "Right"):
        log = page.get_by_role("log", name=f"{side} conversation")
        log.get_by_text("first after").wait_for()
    assert page.locator(".speaker").all_inner_texts() == ["tiny", "calm"]


@needs_page
@needs_chromium
def test_a_new_chat_knows_nothing_of_the_answer_that_it_broke_off(page, monkeypatch):
    bodies = []

    async def begun(self, path, body):
        bodies.append(body)
        yield {"choices": [{"delta": {"content": "It is"}}]}
        await asyncio.sleep(60 if len(bodies) <= 2 else 0)

    monkeypatch.setattr(Api, "stream", begun)
    begin_anew(page)
    for question in ("Say 7", "Say 8"):
        box = page.get_by_label("Message", exact=True)
        box.fill(question)
        box.press("Enter")
        page.get_by_text("It is").last.wait_for()
        page.get_by_role("button", name="New chat").click()
        page.get_by_text("It is").last.wait_for(state="detached")
    asked = [[m["content"] for m in body["messages"]] for body in bodies]
    assert asked == [["Say 7"], ["Say 7"], ["Say 8"], ["Say 8"]]
