"""Learning rates: what an objective takes of the rate that a method imitates at."""

from __future__ import annotations

import pytest

from rung import methods, objectives
from rung.train.plan import Plan

TRAINED = [m for m in methods.registry.all() if m.trained and "lr" in m.defaults]


@pytest.mark.parametrize("objective", [o.name for o in objectives.registry.all()])
def test_the_rate_is_a_share_of_the_methods_unless_it_is_given(objective):
    chosen = objectives.get(objective)
    given = {"data": "rows.jsonl", "objective": objective, "reward": ["length:5"]}
    if not chosen.draws:
        del given["reward"]
    for method in ("lora", "full", "prompt_tuning"):
        own = methods.get(method).defaults["lr"]
        plan = Plan.of("x", {**given, "method": method})
        assert plan.train.lr == pytest.approx(own * chosen.rate, rel=1e-2)
        assert Plan.of("x", {**given, "method": method, "lr": 0.5}).train.lr == 0.5
    assert TRAINED and all(chosen.usual(m.defaults)["lr"] > 0 for m in TRAINED)


def test_preferences_move_weights_less_than_imitation():
    rates = {name: objectives.get(name).rate for name in ("sft", "dpo", "kto", "grpo", "ppo", "rloo")}
    assert rates["sft"] == 1
    assert rates["dpo"] == rates["kto"] == 0.1
    assert rates["grpo"] == rates["ppo"] == rates["rloo"] == 0.03
