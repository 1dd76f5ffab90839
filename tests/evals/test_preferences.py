"""Preferences measured: explicit and implicit rewards, ties, and what cannot be compared."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from rung.data import DataKnobs, Template, load
from rung.engine import ServedModel
from rung.errors import ConfigError
from rung.evals import metrics, tasks
from rung.evals.measure import measure
from rung.evals.predict import predict
from rung.forward.bank import Bank
from rung.forward.reward_head import RewardHead
from rung.types import Example
from tests.engine.world import tiny_llama
from tests.models import tiny_adapter
from tests.tokens import tiny_tokenizer


def pair(prompt: str, better: str, worse: str) -> Example:
    asked = {"role": "user", "content": prompt}
    sides = ((asked, {"role": "assistant", "content": text}) for text in (better, worse))
    messages, rejected = sides
    return Example(messages, rejected=rejected, origin=f"rows:{prompt}")


PAIRS = [pair("hi", "good day", "go away"), pair("yes?", "no", "maybe"), pair("hi", "a", "bb")]


@pytest.fixture(scope="module")
def world():
    bank = Bank(tiny_llama())
    template = Template.of(tiny_tokenizer())
    models = {"base": ServedModel("base", -1, template)}
    for name, method in (("policy", "lora"), ("soft", "prompt_tuning"), ("judge", "lora")):
        adapter = tiny_adapter(bank, method, seed=len(models))
        if name == "judge":
            weight = torch.randn(bank.width, generator=torch.Generator().manual_seed(0))
            adapter.reward = RewardHead(weight=weight, token=template.stop_ids[0])
        models[name] = ServedModel.of(name, bank.add(adapter), template, adapter)
    return bank, models


def by_hand(bank, template, slot, messages):
    """The log-likelihood of the reply, from all logits of one row alone."""
    from rung.forward.trie import Sequence

    row = template.render(Example(messages))
    trie = bank.trie([Sequence(row.ids, slot=slot)])
    with torch.no_grad():
        logits = bank.logits(bank.forward(trie)[torch.from_numpy(trie.rows[0])], [slot] * len(row.ids))
    found = torch.log_softmax(logits.double(), -1)
    return sum(float(found[i - 1, row.ids[i]]) for i, learnt in enumerate(row.supervised) if learnt)


@pytest.mark.parametrize("name", ["policy", "soft"])
def test_implicit_rewards_are_gains_over_the_base(world, name):
    bank, models = world
    task = tasks.detect(PAIRS)
    assert (task.kind, task.metric) == ("preference", "preference_accuracy")
    answers = predict(bank, models[name], PAIRS, task)
    for example, scores in zip(PAIRS, answers.scores, strict=True):
        for side, messages in (("chosen", example.messages), ("rejected", example.rejected)):
            own, base = (by_hand(bank, models[name].template, slot, messages)
                         for slot in (models[name].slot, -1))  # fmt: skip
            assert scores[side] == pytest.approx(own - base, abs=1e-3)
            assert scores[f"{side}_likelihood"] == pytest.approx(own, abs=1e-3)
    found = measure(answers, PAIRS, task)
    right = [s["chosen"] > s["rejected"] for s in answers.scores]
    assert found.value == pytest.approx(np.mean(right)) and 0 <= found.low <= found.value <= found.high
    assert set(found.more) == {"chosen_likelier"}


def test_a_side_of_several_turns_counts_its_replies_alone(world):
    bank, models = world
    model, task = models["policy"], tasks.detect(PAIRS)
    sides = [
        ({"role": "user", "content": "hi"}, {"role": "assistant", "content": text},
         {"role": "user", "content": f"what do you mean, {text}?"},
         {"role": "assistant", "content": f"{text} it is"})
        for text in ("hello", "go")
    ]  # fmt: skip
    one = Example(sides[0], rejected=sides[1], origin="rows:1")
    (scores,) = predict(bank, model, [one], task).scores
    for side, messages in zip(("chosen", "rejected"), sides, strict=True):
        own = by_hand(bank, model.template, model.slot, messages)
        assert scores[f"{side}_likelihood"] == pytest.approx(own, abs=1e-3)


def test_the_base_prefers_nothing_and_has_its_own_likelihoods(world):
    bank, models = world
    task = tasks.detect(PAIRS)
    found = measure(predict(bank, models["base"], PAIRS, task), PAIRS, task)
    assert found.value == 0.5 and found.items.tolist() == [0.5] * 3
    assert found.more["chosen_likelier"] in (0, 1 / 3, 2 / 3, 1)


def test_a_reward_model_is_measured_by_its_rewards(world):
    from rung.forward.rewards import rewards

    bank, models = world
    judge, task = models["judge"], tasks.detect(PAIRS)
    answers = predict(bank, judge, PAIRS, task)
    texts = [judge.template.render(Example(m)).ids for e in PAIRS for m in (e.messages, e.rejected)]
    expected = rewards(bank, judge.slot, judge.reward, texts).view(-1, 2)
    found = [[s["chosen"], s["rejected"]] for s in answers.scores]
    assert torch.allclose(torch.tensor(found), expected.float(), atol=1e-5)
    measured = measure(answers, PAIRS, task)
    assert measured.value == pytest.approx(float((expected[:, 0] > expected[:, 1]).double().mean()))
    assert measured.more == {}


def test_only_metrics_of_preferences_fit(world):
    task = tasks.detect(PAIRS)
    assert metrics.suited(task)[:2] == ["preference_accuracy", "chosen_likelier"]
    with pytest.raises(ConfigError, match="not measured by rouge_l"):
        tasks.settle_task(task, PAIRS, None, "rouge_l")
    with pytest.raises(ConfigError, match="two equal replies"):
        predict(*world_of(world), [*PAIRS, pair("x", "same", "same")], task)


def world_of(world):
    return world[0], world[1]["base"]


def test_rows_with_two_equal_replies_are_told_of_and_left_out(world):
    task = tasks.detect(PAIRS)
    items, problems = tasks.measurable(task, [*PAIRS, pair("x", "same", "same")])
    assert items == list(PAIRS)
    assert [p.message.partition(" (")[0] for p in problems] == ["1 row has two equal replies"]
    # Where answers are judged, both replies of a row do not matter: its prompt stays.
    wins = dataclasses.replace(task, metric="win_rate")
    assert len(tasks.measurable(wins, [pair("x", "same", "same")])[0]) == 1


def test_rows_of_ratings_are_measured_as_pairs(world, tmp_path):
    rows = [{"prompt": "q", "completion": f"r{i}", "label": i % 2 == 0} for i in range(4)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    dataset = load(DataKnobs(data=str(path)), wants="pairs")
    assert dataset.kind == "pairs" and len(dataset.examples) == 4
    task = tasks.detect(dataset.examples)
    assert task.kind == "preference"
    items, problems = tasks.measurable(task, dataset.examples)
    assert len(items) == 4 and not problems  # each better one with each worse one
    measured = measure(predict(*world_of(world), items, task), items, task)
    assert measured.n == 4
