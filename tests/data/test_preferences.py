"""Rows that say which reply is better: read as pairs, and never learnt as replies."""

from __future__ import annotations

import json

import pytest

from rung.data import DataKnobs, load, pairs
from rung.errors import DataError

USER = {"role": "user", "content": "q"}
GOOD = {"role": "assistant", "content": "good"}
BAD = {"role": "assistant", "content": "bad"}
CHAT = {"chosen": [USER, GOOD], "rejected": [USER, BAD]}
CALLED = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALL = {"role": "assistant", "content": None, "tool_calls": [CALLED]}
PAIRS = {
    "texts": {"prompt": "q", "chosen": "good", "rejected": "bad"},
    "a question": {"question": "q", "chosen": "good", "rejected": "bad", "margin": 2},
    "scores beside": {"prompt": "q", "chosen": "good", "rejected": "bad", "score_chosen": 5,
                      "score_rejected": 3},
    "one message each": {"prompt": "q", "chosen": GOOD, "rejected": BAD},
    "messages": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "implicit prompt": CHAT,
    "a prompt that both sides repeat": {"prompt": "q", **CHAT},
    "ShareGPT": {"conversations": [{"from": "human", "value": "q"}],
                 "chosen": {"from": "gpt", "value": "good"},
                 "rejected": {"from": "gpt", "value": "bad"}},
    "OpenAI": {"input": {"messages": [USER], "tools": [], "parallel_tool_calls": True},
               "preferred_output": [GOOD], "non_preferred_output": [BAD]},
    "transcripts": {"chosen": "\n\nHuman: q\n\nAssistant: good",
                    "rejected": "\n\nHuman: q\n\nAssistant: bad"},
    "a common beginning": {"positive": "q good", "negative": "q bad"},
    "instruction": {"instruction": "q", "input": "", "output": ["good", "bad"]},
    "scored in another order": {"prompt": "q", "responses": ["bad", "good"], "scores": [1, 4]},
    "ranks": {"prompt": "q", "responses": ["bad", "good"], "rank": [2, 1]},
    "replies with scores": {"instruction": "q", "completions": [
        {"response": "bad", "overall_score": 2.0}, {"response": "good", "overall_score": 8.5}]},
    "a winner": {"prompt": "q", "response_a": "bad", "response_b": "good", "winner": "b"},
    "a winner by model": {"conversation_a": [USER, GOOD], "conversation_b": [USER, BAD],
                          "winner": "model_a"},
    "a winner and a loser": {"prompt": "q", "winner": "good", "loser": "bad"},
    "y_w and y_l": {"prompt": "q", "y_w": "good", "y_l": "bad"},
    "best and worst": {"question": "q", "best_answer": "good", "worst_answer": "bad"},
    "good and bad": {"prompt": "q", "response_good": "good", "response_bad": "bad"},
    "capitals": {"Prompt": "q", "Chosen": "good", "Rejected": "bad"},
    "sides as JSON": {"prompt": "q", "chosen": json.dumps([USER, GOOD]),
                      "rejected": str([USER, BAD])},
    "texts with ranks": {"prompt": "q", "answers": [
        {"text": "bad", "rank": 2}, {"text": "good", "rank": 1}]},
    "the number of the better": {"prompt": "q", "response_0": "bad", "response_1": "good",
                                 "better_response_id": 1},
    "SHP": {"history": "q", "human_ref_A": "good", "human_ref_B": "bad", "labels": 1},
}  # fmt: skip
MARGINS = {"a question": 2.0, "scores beside": 2.0, "scored in another order": 3.0,
           "replies with scores": 6.5}  # fmt: skip


def lines(*rows: object) -> str:
    return "\n".join(json.dumps(row) for row in rows)


@pytest.mark.parametrize("name", PAIRS)
def test_every_form_is_one_pair(write, name):
    dataset = load(DataKnobs(data=write("rows.jsonl", lines(PAIRS[name]))), wants="pairs")
    (pair,), problems = pairs(dataset.examples)
    assert [m["content"] for m in pair.prompt] == ["q"]
    assert [m["content"] for m in pair.chosen] == ["good"]
    assert [m["content"] for m in pair.rejected] == ["bad"]
    assert (pair.margin, pair.origin, problems) == (MARGINS.get(name), "rows.jsonl:1", [])


@pytest.mark.parametrize("name", PAIRS)
def test_supervised_training_refuses_and_says_what_to_do(write, name):
    path = write("rows.jsonl", lines(PAIRS[name]))
    with pytest.raises(DataError, match="--objective dpo") as told:
        load(DataKnobs(data=path))
    assert "rejected}" not in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["texts", "implicit prompt", "instruction"])
def test_the_flags_that_the_refusal_names_learn_the_better_reply(write, name):
    import shlex

    path = write("rows.jsonl", lines(PAIRS[name]))
    with pytest.raises(DataError) as told:
        load(DataKnobs(data=path))
    _, user, _, assistant = shlex.split(str(told.value).partition("alone with ")[2])
    (example,) = load(DataKnobs(data=path, user=user, assistant=assistant)).examples
    assert [m["content"] for m in example.messages] == ["q", "good"]


RATED = [
    {"prompt": "q", "completion": "good", "label": True},
    {"prompt": "q", "completion": "bad", "label": False},
    {"prompt": "alone", "completion": "fine", "label": True},
]


def test_wanted_and_unwanted_replies_are_rated(write):
    path = write("rows.jsonl", lines(*RATED))
    dataset = load(DataKnobs(data=path), wants="ratings")
    assert dataset.kind == "ratings"
    assert [e.rating for e in dataset.examples] == [1.0, 0.0, 1.0]
    found, problems = pairs(dataset.examples)
    assert [(p.chosen[0]["content"], p.rejected[0]["content"], p.margin) for p in found] == [
        ("good", "bad", 1.0)
    ]
    assert problems[0].rows == ("rows.jsonl:3",)


def test_unwanted_replies_are_not_learnt(write):
    path = write("rows.jsonl", lines(*RATED))
    with pytest.raises(DataError, match="--objective kto.*--where label=true"):
        load(DataKnobs(data=path))
    learnt = load(DataKnobs(data=path, where=["label=true"], user="{prompt}", assistant="{completion}"))
    assert [e.messages[-1]["content"] for e in learnt.examples] == ["good", "fine"]


@pytest.mark.parametrize(
    ("wanted", "unwanted"),
    [(True, False), (1, 0), (1.0, 0.0), ("1", "0"), ("1.0", "0.0"), ("true", "False"), (" TRUE ", "0")],
)
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_truth_is_read_however_a_file_writes_it(write, kind, wanted, unwanted):
    rows = [{"prompt": "q", "completion": "good", "label": wanted},
            {"prompt": "q", "completion": "bad", "label": unwanted},
            {"prompt": "alone", "completion": "fine", "label": wanted}]  # fmt: skip
    table = [",".join(rows[0]), *(",".join(map(str, r.values())) for r in rows)]
    path = write(f"rows.{kind}", lines(*rows) if kind == "jsonl" else "\n".join(table))
    found = load(DataKnobs(data=path), wants="ratings")
    assert [e.rating for e in found.examples] == [1.0, 0.0, 1.0]
    with pytest.raises(DataError, match="--objective kto.*--where label=") as told:
        load(DataKnobs(data=path))
    where = str(told.value).partition("--where ")[2].split()[0]
    learnt = load(DataKnobs(data=path, where=[where], user="{prompt}", assistant="{completion}"))
    assert [e.messages[-1]["content"] for e in learnt.examples] == ["good", "fine"]


def test_truth_beside_turns_rates_them_and_numbers_are_classes(write):
    turns = {"messages": [USER, GOOD]}
    for label, kind in ((False, "ratings"), ("False", "ratings"), (0, "replies"), ("0", "replies")):
        path = write("rows.jsonl", lines({**turns, "label": label}))
        assert load(DataKnobs(data=path), wants=None).kind == kind


def test_ranked_replies_make_all_their_pairs(write):
    row = {"instruction": "q", "output": ["best", "middle", "worst"]}
    dataset = load(DataKnobs(data=write("rows.jsonl", lines(row))), wants="pairs")
    found, _ = pairs(dataset.examples)
    assert [(p.chosen[0]["content"], p.rejected[0]["content"]) for p in found] == [
        ("best", "middle"), ("best", "worst"), ("middle", "worst"),
    ]  # fmt: skip


def test_equal_sides_are_told_and_ties_say_nothing(write):
    rows = [PAIRS["texts"], {"prompt": "p", "chosen": "same", "rejected": "same"}]
    found, problems = pairs(
        load(DataKnobs(data=write("a.jsonl", lines(*rows))), wants="pairs").examples
    )
    assert len(found) == 1
    assert "equal replies" in problems[0].message
    tied = [PAIRS["a winner"], {**PAIRS["a winner"], "winner": "tie"}]
    assert len(load(DataKnobs(data=write("b.jsonl", lines(*tied))), wants="pairs").examples) == 1


def test_no_pair_at_all_is_an_error():
    with pytest.raises(DataError, match="no pair"):
        pairs([])


def test_calls_and_several_turns_are_kept(write):
    row = {
        "chosen": [USER, CALL, {"role": "tool", "tool_call_id": "c", "content": "7"}, GOOD],
        "rejected": [USER, CALL, {"role": "tool", "tool_call_id": "c", "content": "7"}, BAD],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    (pair,), _ = pairs(load(DataKnobs(data=write("a.jsonl", lines(row))), wants="pairs").examples)
    assert [m["role"] for m in pair.prompt] == ["user", "assistant", "user"]
    assert '"name": "f"' in pair.prompt[1]["content"]
    assert "of f" in pair.prompt[2]["content"]
    assert pair.prompt[0]["tools"][0]["function"]["name"] == "f"


def test_classes_beside_a_reply_are_no_ratings(write):
    row = {"prompt": "q", "completion": "a", "label": "spam"}
    assert load(DataKnobs(data=write("a.jsonl", lines(row)))).kind == "replies"


def test_both_sides_are_shown(write):
    from rung.data import split
    from rung.data.report import report

    from .conftest import template

    knobs = DataKnobs(data=write("a.jsonl", lines(PAIRS["texts"])), test=0, validation=0)
    dataset = load(knobs, wants=None)
    found = report(dataset, split(dataset, knobs), template())
    assert ["good" in s.marked() for s in found.shown] == [True, False]
    assert any("--objective dpo" in p.message for p in found.problems)


SCORED = [
    {"objective": "q", "reply": "best", "a": 0.9, "b": 1.0},
    {"objective": "q", "reply": "good", "a": 0.7, "b": 0.8},
    {"objective": "q", "reply": "poor", "a": 0.1, "b": ""},
    {"objective": "other", "reply": "alone", "a": 1, "b": 1},
]
COLUMNS = {"user": "{objective}", "assistant": "{reply}", "score": "{a} {b}"}


@pytest.mark.parametrize(
    ("least", "expected"),
    [
        (0.0, ["best>good", "best>poor", "good>poor"]),
        (0.5, ["best>poor", "good>poor"]),
        (0.8, ["best>poor"]),
    ],
)
def test_scored_answers_make_pairs_that_differ_enough(write, least, expected):
    path = write("rows.jsonl", lines(*SCORED))
    dataset = load(DataKnobs(data=path, least_gap=least, **COLUMNS), wants="pairs")
    found, _ = pairs(dataset.examples)
    assert [f"{p.chosen[0]['content']}>{p.rejected[0]['content']}" for p in found] == expected
    assert found[0].margin == pytest.approx(0.2 if least == 0 else 0.85)
    assert any("make no pair" in p.message and "rows.jsonl:4" in p.message for p in dataset.problems)
    assert dataset.kind == "pairs"


def test_margins_below_the_least_gap_are_counted(write):
    rows = [{**PAIRS["a question"], "margin": m} for m in (0.1, 2, 3)]
    dataset = load(DataKnobs(data=write("a.jsonl", lines(*rows)), least_gap=1), wants="pairs")
    assert len(dataset.examples) == 2
    assert any("1 pair has a margin below --least-gap" in p.message for p in dataset.problems)


def test_a_score_that_is_no_number_is_named(write):
    rows = [*SCORED, {"objective": "q", "reply": "x", "a": "very", "b": "good"}]
    with pytest.raises(DataError, match="rows.jsonl:5.*no number"):
        load(DataKnobs(data=write("rows.jsonl", lines(*rows)), **COLUMNS), wants="pairs")


def test_the_report_counts_pairs_margins_and_prompts_that_leave_no_room(write):
    from rung.data import split
    from rung.data.report import report

    from .conftest import template

    rows = [
        PAIRS["a question"],
        {"prompt": "q", "chosen": "same", "rejected": "same"},
        {"prompt": "long " * 60, "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "long " * 60, "rejected": "b"},
    ]
    knobs = DataKnobs(data=write("a.jsonl", lines(*rows)), test=0, validation=0)
    dataset = load(knobs, wants=None)
    found = report(dataset, split(dataset, knobs), template(), max_length=100)
    told = " | ".join(p.message for p in found.problems)
    for words in (
        "3 pairs of a better and a worse reply; 1 say by how much: 2 to 2, median 2",
        "1 row has two equal replies (a.jsonl:2)",
        "1 pair has a prompt that alone fills --max-length 100 (a.jsonl:3)",
        "1 pair has a reply that does not fit --max-length 100 (a.jsonl:4)",
    ):
        assert words in told


@pytest.mark.parametrize(
    "names",
    [("Question", "Kept", "Rejected"), ("q", "a", "loser"), ("q", "a", "worst_answer"),
     ("q", "a", "response_bad"), ("q", "a", "non_preferred"), ("q", "a", "incorrect_answer")],
)  # fmt: skip
def test_a_reply_that_nobody_wants_is_never_proposed(write, names):
    rows = [
        dict(zip(names, (f"what is {i}", f"kite {i}", f"stone {i}"), strict=True)) for i in range(9)
    ]
    with pytest.raises(DataError) as refused:
        load(DataKnobs(data=write("rows.jsonl", lines(*rows))))
    assert "--user" in str(refused.value) and f"{{{names[2]}}}" not in str(refused.value)


@pytest.mark.parametrize(
    "row",
    [{"prompt": "q", "completions": ["a", "b"], "labels": [True, False]},  # steps of one answer
     {"question": "q", "answers": ["a", "b"]},
     {"question": "q", "context": "c", "answers": {"text": ["a"], "answer_start": [0]}}],
)  # fmt: skip
def test_what_is_listed_without_an_order_is_no_ranking(write, row):
    with pytest.raises(DataError, match=r"--assistant '\{\w+(\[text\])?\[0\]\}'"):
        load(DataKnobs(data=write("rows.jsonl", lines(*[row] * 9))), None)


@pytest.mark.parametrize("names", [("Text", "Label"), ("TEXT", "LABEL"), (" text", "label ")])
def test_names_of_columns_in_capitals(write, names):
    rows = [
        dict(zip(names, (f"kite {i}", "ab"[i % 2]), strict=True)) | {"Source": "x"} for i in range(20)
    ]
    found = load(DataKnobs(data=write("rows.jsonl", lines(*rows))))
    assert found.labels == ("a", "b")
    assert any("Source (20 rows)" in p.message for p in found.problems)
