"""Answers with tools: what the model drew is learnt from, what its tools gave stands between."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data import Template
from rung.engine import Engine
from rung.engine.request import Completion, Token
from rung.errors import DataError, Interrupted
from rung.forward.bank import Bank
from rung.forward.policy import Policy
from rung.forward.trie import Sequence
from rung.objectives import Row, Setting
from rung.objectives.drawer import Drawer, Lane
from rung.objectives.rollouts import _packed, _unpacked
from rung.tools.agent import Agent
from rung.train.sources import Shuffled
from rung.types import Decoding, Example
from tests.data.conftest import template
from tests.data.test_tool_templates import FAMILIES
from tests.engine.world import tiny_llama
from tests.models import tiny_adapter
from tests.objectives.drawn import chosen
from tests.tokens import tiny_tokenizer
from tests.tools.world import switches

ASKED = ({"role": "user", "content": "Light the red lamp."},)


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    return (switches(tmp_path_factory.mktemp("tools")),)


def call(lamp: str) -> str:
    return f"<tool_call>{json.dumps({'name': 'switch', 'arguments': {'lamp': lamp}})}</tool_call>"


def completion(ids, text: str, reason: str = "stop") -> Completion:
    tokens = tuple(Token(i, "", -0.5) for i in ids)
    return Completion(text=text, ids=tuple(ids), finish_reason=reason, prompt_tokens=1, tokens=tokens)


def lane_of(one, agent: Agent) -> Lane:
    return Lane((0,), tuple(one.prompt(agent.messages(ASKED))), ASKED, agent)


def written(one, agent, turns, text: str) -> Completion:
    """A turn as the chat template writes it behind others."""
    reply = {"role": "assistant", "content": text}
    row = one.render(Example((*agent.messages([*ASKED, *turns]), reply)))
    start = len(one.prompt(agent.messages([*ASKED, *turns])))
    return completion(row.ids[start:], text)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "mistral"])
@settings(max_examples=15, deadline=None)
@given(
    lamps=st.lists(st.lists(st.sampled_from(["red", "mauve"]), min_size=1, max_size=2), max_size=3),
    reply=st.text("abc <>", min_size=1, max_size=9).filter(lambda t: t.strip() == t),
)
def test_a_trajectory_is_the_row_that_supervised_training_makes_of_it(family, lamps, reply, tools):
    one, agent = template(shape=FAMILIES[family]), Agent.of(tools)
    lane = lane_of(one, agent)
    for step in lamps:
        said = written(one, agent, lane.turns, "\n".join(map(call, step)))
        assert lane.take(said, one, 10_000)
    assert not lane.take(written(one, agent, lane.turns, reply), one, 10_000)
    row = one.render(
        Example((*agent.messages([*ASKED, *lane.turns]), {"role": "assistant", "content": reply}))
    )
    found = lane.drawn()
    assert (*lane.prompt, *found.ids) == row.ids
    assert (*(False,) * len(lane.prompt), *found.own) == row.supervised
    assert found.tokens == sum(row.supervised) and found.text == reply
    assert found.calls == sum(map(len, lamps)) and not found.truncated


def test_what_was_drawn_stays_as_it_was_drawn(tools):
    """Other tokens than the template's for the same call: the template's is what stands behind it."""
    one, agent = template(shape=FAMILIES["hermes"]), Agent.of(tools)
    lane, usual = lane_of(one, agent), lane_of(one, agent)
    plain = written(one, agent, [], call("red"))
    odd = completion((7, 8, 9, plain.ids[-1]), call("red"))
    assert lane.take(odd, one, 10_000) and usual.take(plain, one, 10_000)
    assert lane.ids[:4] == list(odd.ids) and lane.ids[4:] == usual.ids[len(plain.ids) :]
    assert lane.own == [True] * 4 + [False] * (len(lane.ids) - 4)


def test_a_template_that_writes_earlier_turns_anew_is_refused(tools):
    one, agent = template(shape=FAMILIES["mistral"]), Agent.of(tools)
    lane = lane_of(one, agent)
    with pytest.raises(DataError, match="take another --chat-template, or leave --tools out"):
        lane.take(written(one, agent, [], call("red")), one, 10_000)


def test_cut_off_calls_are_not_made_and_without_room_there_is_no_reply(tools):
    one, agent = template(shape=FAMILIES["hermes"]), Agent.of(tools)
    cut, full = lane_of(one, agent), lane_of(one, agent)
    said = written(one, agent, [], call("red"))
    assert not cut.take(dataclasses.replace(said, finish_reason="length"), one, 10_000)
    assert cut.drawn().truncated and cut.drawn().calls == 0
    assert not full.take(said, one, len(full.prompt) + len(said.ids))
    assert full.drawn().truncated and full.drawn().text == "" and full.drawn().calls == 1
    assert full.drawn().ids == said.ids


def test_the_last_step_must_be_a_reply(tools):
    one, agent = template(shape=FAMILIES["hermes"]), Agent.of(tools, steps=1)
    lane = lane_of(one, agent)
    assert lane.take(written(one, agent, [], call("red")), one, 10_000)
    assert not lane.take(written(one, agent, lane.turns, call("red")), one, 10_000)
    assert lane.drawn().calls == 1 and lane.drawn().text == ""


def scripted(monkeypatch, one, tools) -> list[int]:
    """Have every answer call a tool first, then say a word; returns how many were asked for at once."""
    asked, generate, agent = [], Engine.generate, Agent.of(tools)
    said = written(one, agent, [], call("red"))

    def answer(self, requests, **settings):
        asked.append(len(requests))
        return [said] * len(requests) if len(asked) % 2 else generate(self, requests, **settings)

    monkeypatch.setattr(Engine, "generate", answer)
    return asked


def setting_of(one, tools, stopping=lambda: False) -> Setting:
    """Two prompts whose answers may call tools."""
    prompt = Sequence(tuple(one.prompt(Agent.of(tools).messages(ASKED))))
    rows = [
        Row(
            sequences=(prompt,), weight=1.0, origin=f"p:{i}",
            extra={"prompt": ASKED, "gold": "a", "columns": {}, "tools": tools},
        )
        for i in range(2)
    ]  # fmt: skip
    bank = Bank(tiny_llama(max_position_embeddings=4096))
    return Setting(
        bank=bank, template=one, adapter=tiny_adapter(bank, "lora").trainable(),
        shuffled=Shuffled(rows, 2, 0), seed=7, note=print, stopping=stopping,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["grpo", "rloo", "ppo"])
def test_every_objective_learns_from_what_the_model_drew_alone(name, tools, monkeypatch):
    one = Template.of(tiny_tokenizer())
    setting = setting_of(one, tools)
    bank, adapter = setting.bank, setting.adapter
    prompt = setting.shuffled.rows(0)[0].sequences[0]
    objective = chosen(name, reward=["regex:[aeiou]"], answer_tokens=5, updates=2)
    objective.equip(adapter, bank, one)
    source = objective.source(setting)
    bank.add(adapter)
    asked = scripted(monkeypatch, one, tools)
    drawn = source.rows(0)
    answers = source.objective.answers
    assert asked == [2 * answers, 2 * answers]  # all calls at once, then all replies
    said = written(one, Agent.of(tools), [], call("red")).ids
    for row in drawn:
        assert row.extra["figures"]["calls"] == 1
        for s in row.sequences:
            start, own = len(prompt), np.flatnonzero(s.supervised)
            assert own[: len(said)].tolist() == list(range(start, start + len(said)))
            assert not s.supervised[start + len(said)] and 1 <= len(own) - len(said) <= 5
        assert len(row.extra["old"]) == sum(int(s.supervised.sum()) for s in row.sequences)
    # What was drawn by the model has the training pass's log-probabilities, behind the results too.
    policy = Policy(source.setting.bank, drawn[0].sequences, source.slot)
    now, old = source.objective.logprobs(policy).detach().double().numpy(), drawn[0].extra["old"]
    mine = np.concatenate([now[edges] for edges in policy.edges])
    by_script = np.concatenate(
        [np.arange(int(s.supervised.sum())) < len(said) for s in drawn[0].sequences]
    )
    assert np.abs(mine - old)[~by_script].max() < 1e-4
    loss = source.objective.loss(policy, drawn[:1])
    loss.total.backward()
    gradients = [t.grad for t in source.setting.adapter.parameters().values() if t.grad is not None]
    assert gradients and all(torch.isfinite(g).all() for g in gradients)
    # A checkpoint in the middle of a draw holds which tokens were drawn.
    kept = {k: v for i, row in enumerate(drawn) for k, v in _packed(i, row).items()}
    for row, again in zip(drawn, _unpacked(kept), strict=True):
        for s, t in zip(row.sequences, again.sequences, strict=True):
            assert s.ids.tolist() == t.ids.tolist()
            assert s.supervised.tolist() == t.supervised.tolist()


def test_a_stopped_training_makes_no_further_calls(tools, monkeypatch):
    one, made = Template.of(tiny_tokenizer()), []
    scripted(monkeypatch, one, tools)
    run = Agent.run
    monkeypatch.setattr(Agent, "run", lambda self, call: made.append(call) or run(self, call))
    setting = setting_of(one, tools, stopping=lambda: bool(made))
    slot = setting.bank.add(setting.adapter)
    with pytest.raises(Interrupted):
        Drawer(setting, 4).draw(setting.shuffled.rows(0), slot, 4, Decoding(max_tokens=5), (0,))
    assert len(made) == 1


@pytest.mark.parametrize(("answers", "lanes"), [(1, 64), (32, 64), (33, 128), (500, 128)])
def test_as_many_lanes_as_a_step_draws_answers(tools, answers, lanes):
    """Steps of 64 lanes go by compiled ones, and no weights are laid out a second time for them."""
    drawer = Drawer(setting_of(Template.of(tiny_tokenizer()), tools), answers)
    assert drawer.prepare().scheduler.max_batch == lanes
