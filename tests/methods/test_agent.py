"""The method agent: fitted by a tuning, kept, asked again; which examples it may show."""

from __future__ import annotations

import json

import pytest

from rung import methods
from rung.cli import run
from rung.evals import tasks
from rung.ladder.forecast import shape_of
from rung.methods.agent import holds
from rung.models import load_engine
from rung.train.plan import Plan
from rung.train.prepare import prepare
from tests.engine.world import tiny_llama
from tests.tokens import tiny_tokenizer
from tests.tools.world import switches

LAMPS = ("red", "blue")


def conversation(number: int) -> dict:
    """Question, call, result and reply, as OpenAI's clients write them."""
    lamp = LAMPS[number % 2]
    call = {"name": "switch", "arguments": json.dumps({"lamp": lamp})}
    return {"messages": [
        {"role": "user", "content": f"Light lamp {number}, which is {lamp}."},
        {"role": "assistant", "content": None,
         "tool_calls": [{"id": "c", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "c", "content": f"{lamp} is on"},
        {"role": "assistant", "content": f"{lamp} is on"},
    ]}  # fmt: skip


@pytest.fixture
def place(rung_home, tmp_path):
    data = tmp_path / "lamps.jsonl"
    data.write_text("".join(json.dumps(conversation(i)) + "\n" for i in range(40)))
    base = tmp_path / "tiny"
    tiny_llama(max_position_embeddings=4096).save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    return data, switches(tmp_path), base


def test_it_is_tuned_evaluated_and_asked_with_its_tools_alone(place, capsys):
    data, tools, base = place
    words = ["--data", str(data), "--tools", str(tools), "--base", str(base), "--choose-rows", "8"]
    told = ["--step-tokens", "48", "--steps", "1", "--call-shots", "1"]
    assert run(["tune", "clerk", "--method", "agent", *words, *told]) == 0
    assert "calls for an answer" in (said := capsys.readouterr()).out + said.err
    asked = ["--data", str(data), "--tools", str(tools), "--items", "4", "--json"]
    assert run(["eval", "clerk", *asked]) == 0
    told = json.loads(capsys.readouterr().out)["models"][0]
    assert told["name"] == "clerk" and told["more"]["steps_taken"] <= 1
    assert 0 <= told["more"]["right_calls"] <= told["more"]["right_tools"] <= 1
    assert run(["chat", "clerk", "-p", "Light the red lamp.", "--tools", str(tools), "--trace"]) == 0
    assert run(["show", "clerk"]) == 0
    assert "agent" in capsys.readouterr().out


@pytest.mark.parametrize("objective", ["sft", "grpo"])
def test_training_tells_of_the_tools_as_asking_does(objective, place):
    data, tools, base = place
    given = {"data": str(data), "base": str(base), "tools": [tools], "objective": objective}
    more = {"reward": ["exact"], "answer_tokens": 20} if objective == "grpo" else {}
    plan = Plan.of("caller", {**given, **more, "device": "cpu", "dtype": "float32"})
    made = prepare(plan, lambda stage: None)
    agent = made.agent(plan.objective)
    examples = {e.origin: e for e in made.splits.train}
    assert made.rows["train"] and agent is not None
    for row in made.rows["train"]:
        asked = made.template.prompt(agent.messages(examples[row.origin].before_calls))
        assert row.ids[: len(asked)].tolist() == asked


def test_tokens_that_are_counted_beforehand_are_those_that_training_reads(place):
    data, tools, base = place
    plan = Plan.of("caller", {"data": str(data), "base": str(base), "tools": [tools], "device": "cpu"})
    made = prepare(plan, lambda stage: None)
    rows, train = made.rows["train"], made.splits.train
    task = tasks.detect(train)
    plain = shape_of(made.template, made.bank, task, train, 0)
    told = plain.with_tools()
    assert told.shared + told.prompt + told.reply == pytest.approx(
        sum(len(r.ids) for r in rows) / len(rows), abs=8
    )
    assert told.reply == pytest.approx(
        sum(int(r.sequences[0].supervised.sum()) for r in rows) / len(rows), abs=8
    )
    assert plain.schemas > plain.calls > 0 and plain.results > 0
    asked = made.template.prompt(train[0].before_calls)
    assert plain.shared + plain.prompt == pytest.approx(len(asked), abs=8)
    lora, agent = methods.get("lora"), methods.get("agent")
    assert agent.answering(agent.Config(), told).written == told.reply
    assert lora.answering(lora.Config(), told).written > lora.answering(lora.Config(), plain).written


@pytest.mark.parametrize("calling", ["chosen", "rejected"])
def test_pairs_tell_of_the_tools_that_either_reply_calls(calling, place, tmp_path):
    _, tools, base = place
    other = {"chosen": "rejected", "rejected": "chosen"}[calling]
    data = tmp_path / "pairs.jsonl"
    with data.open("w") as file:
        for i in range(24):
            asked, *called = conversation(i)["messages"]
            plain = [{"role": "assistant", "content": "no"}]
            file.write(json.dumps({"prompt": [asked], calling: called, other: plain}) + "\n")
    given = {"data": str(data), "base": str(base), "tools": [tools], "objective": "dpo"}
    plan = Plan.of("chooser", {**given, "device": "cpu", "dtype": "float32"})
    made = prepare(plan, lambda stage: None)
    agent = made.agent(plan.objective)
    example = {e.origin: e for e in made.splits.train}[made.rows["train"][0].origin]
    asked = made.template.prompt(agent.messages(example.messages[:1]))
    for sequence in made.rows["train"][0].sequences:
        assert sequence.ids[: len(asked)].tolist() == asked


def _plain(number: int) -> dict:
    asked, *_, reply = conversation(number)["messages"]
    return {"messages": [asked, reply]}


def _call_alone(number: int) -> dict:
    return {"messages": conversation(number)["messages"][:2]}


@pytest.mark.parametrize(("row", "heeded"), [(_plain, False), (_call_alone, True)])
def test_rows_without_results_tell_of_the_tools_or_say_that_they_do_not(row, heeded, place, tmp_path):
    _, tools, base = place
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row(i)) + "\n" for i in range(24)))
    given = {"data": str(data), "base": str(base), "tools": [tools]}
    plan = Plan.of("caller", {**given, "device": "cpu", "dtype": "float32"})
    made = prepare(plan, lambda stage: None)
    said = [p.message for p in made.problems if "--tools" in p.message]
    shown = made.template.tokenizer.decode(made.rows["train"][0].ids.tolist())
    assert ("Switch a lamp" in shown) == heeded == (made.agent(plan.objective) is not None)
    assert bool(said) != heeded


def test_a_parent_with_tools_is_trained_with_them_alone(place, capsys):
    data, tools, base = place
    words = ["--data", str(data), "--base", str(base), "--steps", "1", "--batch-size", "4"]
    assert run(["tune", "caller", *words, "--tools", str(tools)]) == 0
    assert run(["tune", "more", *words, "--parent", "caller"]) == 2
    assert "--parent caller calls tools: name them with --tools" in capsys.readouterr().err
    drawing = ["--objective", "grpo", "--reward", "exact", "--answers", "2", "--answer-tokens", "8"]
    told = [*words, "--parent", "caller", "--tools", str(tools), *drawing]
    assert run(["tune", "solver", *told]) == 0
    assert load_engine(["solver"]).model("solver").conversation.tools == (str(tools),)


def test_without_tools_it_says_what_to_name(place, capsys):
    data, _, base = place
    assert run(["tune", "clerk", "--method", "agent", "--data", str(data), "--base", str(base)]) == 2
    assert "--tools" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("result", "answer", "expected"),
    [
        ("<tool_response>12,000.0</tool_response>", "12000", True),
        ("1 <tool_response>2</tool_response>", "1", False),  # of the call, not of the result
        ("<tool_response>It is RED</tool_response>", "red", True),
        ("<tool_response>red</tool_response>", " ", False),
        ("<tool_response>7</tool_response>", "so 3+4 #### 7", True),
    ],
)
def test_a_result_holds_an_answer(result, answer, expected):
    assert holds(result, answer) is expected
