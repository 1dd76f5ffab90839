"""Budgets in time, money and energy."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.config import Duration, resolve
from rung.errors import ConfigError
from rung.ladder.budget import Budget
from rung.ladder.knobs import ClimbKnobs

PARTS = st.floats(0.01, 1e4).map(lambda x: f"{x:.2f}")


@pytest.mark.parametrize("text", ["90s", "20m", "1h30m", "1.5h", "45s"])
def test_time_is_read_as_before(text):
    assert Budget(text).seconds == Duration(text).seconds
    assert ClimbKnobs(budget=text).budget == text


def test_a_budget_without_a_unit_is_asked_for_one():
    with pytest.raises(ConfigError, match=r"--budget is '20': of what\? Write 20s, 20m or 20h"):
        resolve([ClimbKnobs], {"budget": "20"})


@given(PARTS, st.sampled_from(["usd", "EUR", " chf", "$", "€"]), st.floats(0.01, 100))
def test_money_lasts_as_long_as_the_price_says(amount, unit, price):
    knobs = ClimbKnobs(budget=amount + unit, price=price)
    assert knobs.budget.seconds == pytest.approx(3600 * float(amount) / price)
    assert knobs.budget == amount + unit


@given(PARTS, st.sampled_from(["wh", "Wh", " kWh"]), st.floats(1, 2000))
def test_energy_lasts_as_long_as_the_machine_takes_to_draw_it(amount, unit, watts):
    joules = float(amount) * (3.6e6 if unit.strip().lower() == "kwh" else 3600)
    assert ClimbKnobs(budget=amount + unit, watts=watts).budget.seconds == pytest.approx(joules / watts)


@pytest.mark.parametrize(
    ("text", "missing"), [("0.50usd", "--price"), ("$2", "--price"), ("5wh", "--watts")]
)
def test_what_nobody_can_convert_is_asked_for(text, missing):
    with pytest.raises(ConfigError, match=missing):
        ClimbKnobs(budget=text)


@pytest.mark.parametrize("text", ["soon", "0", "0usd", "0wh", "-1usd", "5 apples", "", "usd"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(ValueError, match="give a time such as 90s, 20m or 1h, money such as"):
        Budget(text)


def test_a_stored_budget_is_read_back():
    plain = dataclasses.asdict(ClimbKnobs(budget="0.50usd", price=2.0))
    assert plain["budget"] == "0.50usd"
    (again,) = resolve([ClimbKnobs], plain)
    assert again.budget.seconds == copy.deepcopy(again).budget.seconds == 900.0
    assert not math.isnan(again.budget.seconds)
