"""Settings of a climb: its own and its rungs', a section for one method alone."""

from __future__ import annotations

import pytest

from rung import methods
from rung.errors import ConfigError
from rung.ladder.rungs import own_settings
from rung.ladder.settings import settle
from rung.train.knobs import RunKnobs, TrainKnobs


def test_a_section_reaches_one_method_and_a_plain_name_all_that_have_it():
    knobs, rest = settle(
        {"climb": {"budget": "5m"}, "training": {"lr": 0.1}, "prefix_tuning": {"virtual_tokens": 4}},
        {"seeds": "2"},
    )
    assert (knobs.budget.seconds, knobs.seeds) == (300, 2)
    assert rest == {"lr": 0.1, "prefix_tuning.virtual_tokens": 4}
    classes = [RunKnobs, TrainKnobs]
    assert own_settings(methods.get("prefix_tuning"), classes, rest) == rest
    assert own_settings(methods.get("prompt_tuning"), classes, rest) == {"lr": 0.1}
    _, both = settle({"prefix_tuning": {"virtual_tokens": 4}}, {"virtual_tokens": "8"})
    assert both == {"virtual_tokens": "8"}  # a flag speaks for all


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "lora"}, "'method' is no setting of a climb .--only METHOD"),
        ({"budget": "soon"}, "--budget is 'soon': give a time such as 90s, 20m or 1h"),
        ({"lora": {"rank": 0}, "seed": -1}, "--rank is 0.*--seed is -1"),
        ({"lora": {"rnak": 1}}, "'rnak' in section 'lora', did you mean 'rank'"),
        ({"virtual_tokens": 2, "prompt_tuning": {"virtual_tokens": 3}}, "set twice"),
        ({"learning_rate": 1}, "here lr"),
        ({"only": ["lroa"]}, "--only names 'lroa', did you mean 'lora'"),
        ({"bar": "high"}, "bar"),
    ],
)
def test_faults_are_told_before_anything_is_read(settings, words):
    with pytest.raises(ConfigError, match=words):
        settle(settings)
