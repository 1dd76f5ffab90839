"""Bases whose chat template writes calls its own way: what they write is held to it and read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data.turns import result_turn, turns
from rung.server.tools import Holding
from rung.tools.agent import Agent, taken_steps
from rung.tools.calls import parse, schema
from rung.types import Decoding, Example
from tests.data.call_templates import ALL, NATIVE, calling_template
from tests.data.test_call_format import calls, generated
from tests.tools.world import switches

SHAPES = {family: calling_template(family) for family in ALL}
CALL = '<tool_call>{"name": "switch", "arguments": {"lamp": "red"}}</tool_call>'
ASK = {"role": "user", "content": "Light the red lamp."}


def engine_with(agent, family):
    from rung.engine import Engine, ServedModel
    from rung.forward.bank import Bank
    from tests.engine.world import tiny_llama

    shape = SHAPES[family]
    model = ServedModel("clerk", -1, shape, conversation=agent)
    vocabulary = len(shape.tokenizer)
    bank = Bank(tiny_llama(max_position_embeddings=8192, vocab_size=vocabulary))
    return Engine(bank, {"clerk": model}, memory=1 << 28), model


pieces = st.sampled_from(
    [
        "It is",
        " ",
        "\n",
        "{",
        '{"a": 1}',
        '{"name"',
        "<tool",
        "[TOOL_CALLS]",
        "```",
        "```json\n[",
        "{ \n",
    ]
)


@pytest.mark.parametrize("family", ALL)
@settings(max_examples=40, deadline=None)
@given(
    lead=st.lists(pieces, max_size=5).map("".join),
    made=st.lists(calls, max_size=2),
    behind=st.lists(pieces, max_size=2).map("".join),
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
def test_a_stream_is_read_as_the_whole_is(family, lead, made, behind, cuts):
    """What is streamed, with what is read of the rest in the end, is what is read of the whole."""
    shape = SHAPES[family]
    text = lead
    if made:
        turn = {"role": "assistant", "tool_calls": [{"function": c} for c in made]}
        text += generated(shape, turn) + behind
    known = [c["name"] for c in made] + ["tide"]

    def read(said):
        left, found = parse(shape.canonical(said, known), known)
        return left, [(c.name, c.values) for c in found]

    holding = Holding(shape.calls)
    edges = sorted({0, len(text), *(n for n in cuts if n < len(text))})
    given_out = "".join(holding.push(text[a:b]) for a, b in zip(edges, edges[1:], strict=False))
    left, found = read(holding.rest)
    assert ("".join((given_out + left).split()), found) == (
        "".join(read(text)[0].split()), read(text)[1]
    )  # fmt: skip


@pytest.mark.parametrize("family", NATIVE)
def test_a_base_of_random_weights_makes_only_calls_that_fit(family, rung_home, tmp_path, monkeypatch):
    """Its calls are of the base's own form; they are read, run, and rendered as they were written."""
    from rung.engine.tool_loop import take_steps

    monkeypatch.setattr("rung.tools.agent.MAX_PARALLEL", 2)
    agent = Agent.of([switches(tmp_path)], steps=1, calls_first=True, max_tokens=200)
    engine, model = engine_with(agent, family)
    one = take_steps(engine, model, [[ASK]], Decoding(max_tokens=200))[0]
    assert one.results and all("error: the arguments" not in text for text in one.results)
    assert len(one.completions) == taken_steps(one.now) + 1
    first, shape = one.completions[0], model.template
    assert first.finish_reason == "stop"
    prompt, again = model.prompt(one.asked).ids, model.prompt(one.now).ids
    drawn = tuple(i for i in first.ids if i not in shape.stop_ids)
    assert again[: len(prompt) + len(drawn)] == (*prompt, *drawn)


@pytest.mark.parametrize("family", NATIVE)
def test_the_grammar_takes_what_the_template_writes(family):
    """Calls as the template writes them are accepted whole, and those of other functions are not."""
    from rung.engine.constraint import Grammars

    shape = SHAPES[family]
    grammars = Grammars(shape.tokenizer, tuple(shape.stop_ids), len(shape.tokenizer))
    function = {"name": "tide", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
        "additionalProperties": False}}  # fmt: skip

    def accepts(name, count, mode="auto", said=""):
        value = {"schema": schema([function]), "most": 4, "mode": mode, "made": 0}
        matcher = grammars.compile("tool_calls", shape.calls.grammar(value)).begin()
        turn = {"role": "assistant", "content": said, "tool_calls": [
            {"function": {"name": name, "arguments": {"a": n}}} for n in range(count)]}  # fmt: skip
        row = shape.render(Example(tuple(turns([ASK, turn]))))
        ids = [i for i, supervised in zip(row.ids, row.supervised, strict=True) if supervised]
        while ids and ids[-1] in (*shape.stop_ids, *shape.tokenizer.encode("\n")):
            ids.pop()
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    assert accepts("tide", 1) and accepts("tide", 1, mode="call")
    assert accepts("tide", 3) == (shape.calls.between is not None)
    assert not accepts("other", 1) and not accepts("tide", 1, mode="answer")
    if shape.calls.keeps_text and shape.calls.tag:
        assert accepts("tide", 2, said="Let me see.")


def test_a_model_of_before_goes_on_in_the_form_it_was_trained_in():
    """What its folder says decides; adapters that others made follow their template."""
    from rung.methods.artefact import calls_of, template_of

    shape = SHAPES["llama"]
    call = {"role": "assistant", "content": CALL}
    report = result_turn("red is on", "switch")
    before = template_of({"rung": "0.1", "template": "x"}, shape)
    text = shape.tokenizer.decode(before.prompt([ASK, call, report]))
    assert CALL in text and "<tool_response>red is on</tool_response>" in text
    assert before.canonical('{"name": "switch", "parameters": {}}', ["switch"]).startswith("{")
    for about in ({"rung": "0.1", **calls_of(shape)}, {"method": "lora"}):
        text = shape.tokenizer.decode(template_of(about, shape).prompt([ASK, call, report]))
        assert '{"name": "switch", "parameters": {"lamp": "red"}}<|im_end|>' in text
        assert "<|im_start|>ipython" in text and "<tool_call>" not in text
    assert not calls_of(SHAPES["none"])


@pytest.mark.parametrize("family", NATIVE)
def test_a_rollout_goes_on_behind_what_was_drawn(family, rung_home, tmp_path):
    """The tokens of a drawn call stay, and what the tools gave follows as a prompt would have it."""
    from rung.engine import Completion
    from rung.objectives.drawer import Lane

    agent, shape = Agent.of([switches(tmp_path)]), SHAPES[family]
    function = {"name": "switch", "arguments": {"lamp": "red"}}
    turn = {"role": "assistant", "tool_calls": [{"function": function}]}
    prompt = shape.prompt(agent.messages([ASK]))
    text = generated(shape, turn)
    row = shape.render(Example((ASK, turns([ASK, turn])[1])))
    ids = tuple(i for i, supervised in zip(row.ids, row.supervised, strict=True) if supervised)
    lane = Lane((1,), tuple(prompt), (ASK,), agent)
    assert lane.take(Completion(text, ids, "stop", len(prompt)), shape, 1 << 14)
    assert "red is on" in lane.turns[1]["content"]
    assert [i for i, own in zip(lane.ids, lane.own, strict=True) if own] == list(ids)
    assert [*prompt, *lane.ids] == shape.prompt(agent.messages([ASK, *lane.turns]))
