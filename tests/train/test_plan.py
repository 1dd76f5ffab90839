"""A tuning's settings: sections and plain names make the same plan, and faults name the way out."""

from __future__ import annotations

import pytest

from rung.errors import ConfigError
from rung.train.plan import Plan

DATA = {"data": "rows.jsonl"}


def test_sections_make_the_plan_that_plain_names_make():
    plain = Plan.of("x", {**DATA, "method": "ia3", "lr": 0.5, "limit": 3, "outputs": ["k_proj"]})
    sections = {
        "run": {"method": "ia3"},
        "data": {"data": "rows.jsonl", "limit": 3},
        "training": {"lr": 0.5},
        "ia3": {"outputs": ["k_proj"]},
    }
    assert Plan.of("x", sections) == plain
    assert Plan.of("x", sections, {"lr": 0.25}).train.lr == 0.25  # a flag over the file


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ia3": {"outputs": ["k_proj"]}}, "'ia3.outputs' belongs to ia3, not to lora"),
        ({"lora": {"rank": 8}, "rank": 4}, "'rank' is set twice, alone and in section 'lora'"),
        ({"lroa": {"rank": 8}}, "unknown section 'lroa', did you mean 'lora'"),
        ({"lora": {"r": 8}}, "unknown setting 'r' in section 'lora', here rank"),
        ({"num_train_epochs": 3}, "unknown setting 'num_train_epochs', here epochs"),
    ],
)
def test_faults_in_sections(settings, words):
    with pytest.raises(ConfigError, match=words):
        Plan.of("x", DATA, settings)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("linear_probe", "--parent old: linear_probe is made from the data anew.*leave out --parent"),
        ("scratch", "--parent old: scratch makes a base of its own.*--base model:old"),
    ],
)
def test_what_begins_anew_does_not_go_on_from_a_parent(method, words):
    with pytest.raises(ConfigError, match=words):
        Plan.of("x", DATA, {"method": method, "parent": "old"})
