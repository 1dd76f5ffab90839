"""Which curves the page draws of what a job has said."""

from __future__ import annotations

import importlib.util

import pytest

if not importlib.util.find_spec("nicegui"):
    pytest.skip("needs the extra 'page'", allow_module_level=True)

from rung.server.page.curves import curves


def test_a_supervised_job_has_its_loss_alone():
    said = [
        {"step": 1, "train_loss": 2.0, "train_mean_token_accuracy": 0.1, "total_steps": 3},
        {"step": 2, "train_loss": 1.5, "total_steps": 3},
        {"step": 2, "train_loss": 1.5, "valid_loss": 1.6, "full_valid_loss": 1.6},
    ]
    assert curves(said) == {
        "Loss": {"training": [[1, 2.0], [2, 1.5], [2, 1.5]], "validation": [[2, 1.6]]}
    }


def test_what_an_objective_reports_stands_on_charts_of_its_own():
    said = [
        {"step": 1, "train_loss": 0.0, "train_reward": 0.25, "train_reward_deviation": 0.4,
         "train_kl": 0.0, "train_answer_tokens": 31.5, "train_truncated": 0.5, "train_klimit": 3.0},
        {"step": 2, "train_loss": 0.1, "train_reward": 0.5, "train_kl": 0.02, "valid_reward": 0.4},
    ]  # fmt: skip
    found = curves(said)
    assert list(found) == ["Loss", "Reward", "KL", "Answer length"]
    assert found["Reward"] == {
        "training": [[1, 0.25], [2, 0.5]], "training deviation": [[1, 0.4]], "validation": [[2, 0.4]],
    }  # fmt: skip
    assert found["KL"] == {"training": [[1, 0.0], [2, 0.02]]}
    assert found["Answer length"] == {"training": [[1, 31.5]]}


def test_margins_of_pairs_are_told_apart_by_name():
    said = [{"step": 3, "train_loss": 0.6, "train_reward_margin": 0.2, "train_reward_chosen": 0.1}]
    assert curves(said)["Reward"] == {"training margin": [[3, 0.2]], "training chosen": [[3, 0.1]]}
    assert curves([]) == {}
