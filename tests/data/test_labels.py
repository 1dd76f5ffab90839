"""Labels, disputed answers and answers by place: decided by all rows, and told."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rung.data import DataKnobs, Template, check, load, refuse, split
from rung.data.labels import listed
from rung.errors import DataError
from rung.evals import tasks

from .conftest import template, tokenizer

SLOW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def lines(rows) -> str:
    return "\n".join(json.dumps(r) for r in rows)


def labelled(labels) -> list[dict[str, object]]:
    return [{"text": f"kite {i} flies", "label": label} for i, label in enumerate(labels)]


def messages(found) -> str:
    return " | ".join(p.message for p in found.problems)


@SLOW
@given(
    label=st.text(st.characters(categories=["L"]), min_size=1, max_size=8),
    before=st.sampled_from(["", " ", "\t"]), after=st.sampled_from([" ", "\n", "  "]),
)  # fmt: skip
def test_labels_that_differ_in_blanks_or_case_stop_a_training(write, label, before, after):
    rows = labelled([label, before + label + after, "other of all"] * 6)
    dataset = load(DataKnobs(data=write("rows.jsonl", lines(rows))))
    assert "differ only in case or blanks" in messages(dataset)
    with pytest.raises(DataError, match="spell them alike"):
        refuse(dataset.problems)


@pytest.mark.parametrize(
    ("one", "other"),
    [("caf\u00e9", "cafe\u0301"), ("good", "good\u200b"), ("good", "\uff47ood"), ("a b", "a\u00a0b"),
     ("don't", "don\u2019t"), ("a-b", "a\u2013b"), ("\u2764", "\u2764\ufe0f")],
)  # fmt: skip
def test_labels_that_look_alike_stop_a_training(write, one, other):
    dataset = load(DataKnobs(data=write("rows.jsonl", lines(labelled([one, other, "another"] * 6)))))
    assert "differ only in case or blanks" in messages(dataset)


@pytest.mark.parametrize(
    ("one", "other"),
    [("good", "good."), ("good", "'good'"), ("non-fiction", "non_fiction"), ("01", "1"), ("1.0", "1")],
)
def test_labels_that_may_mean_the_same_are_told(write, one, other):
    dataset = load(DataKnobs(data=write("rows.jsonl", lines(labelled([one, other, "another"] * 6)))))
    assert "may mean the same" in messages(dataset)
    refuse(dataset.problems)


@pytest.mark.parametrize("labels", [("C", "C+"), ("+", "-"), ("!", "?"), ("1", "10"), ("1-2", "1-3")])
def test_labels_that_differ_are_not_told(write, labels):
    dataset = load(DataKnobs(data=write("rows.jsonl", lines(labelled([*labels, "another"] * 6)))))
    assert "the same" not in messages(dataset) and "differ only" not in messages(dataset)


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_cell_is_no_class(write, empty):
    table = "text,label\n" + "a kite,up\na stone,down\n" * 6 + f'a cloud,"{empty}"\n'
    with pytest.raises(DataError, match="rows.csv:14: no label; fill it in"):
        load(DataKnobs(data=write("rows.csv", table)))


def test_labels_with_the_same_blanks_are_no_fault(write):
    rows = [{"prompt": f"kite {i}", "completion": " yes\n" if i % 2 else " no\n"} for i in range(20)]
    refuse(load(DataKnobs(data=write("rows.jsonl", lines(rows)))).problems)


@pytest.mark.parametrize(
    ("label", "what"),
    [
        ([1, 0, 0], "one-hot"),
        (["red", "big"], "a list"),
        ([], "a list"),
        ({"a": 1}, "an object"),
        ("[1, 0, 0]", "one-hot"),
        ("['red', 'big']", "a list"),
    ],
)
def test_a_label_that_is_a_list_is_no_class(write, label, what):
    path = write("rows.jsonl", lines(labelled([label] * 12)))
    for knobs in (DataKnobs(data=path), DataKnobs(data=path, text="{text}", label="{label}")):
        with pytest.raises(DataError, match=what):
            load(knobs)
    learnt = load(DataKnobs(data=path, user="{text}", assistant="{label}"))
    said = label if isinstance(label, str) else json.dumps(label)
    assert learnt.examples[0].messages[-1]["content"] == said


def test_text_and_label_named_by_flags_are_the_format_of_these_names(write):
    rows = labelled(["good", "bad"] * 10)
    found = load(DataKnobs(data=write("rows.jsonl", lines(rows))))
    named = load(DataKnobs(data=write("rows.jsonl", lines(rows)), text="{text}", label="{label}"))
    assert [e.messages for e in named.examples] == [e.messages for e in found.examples]
    assert named.labels == ("bad", "good")
    assert tasks.detect(named.examples).kind == "classification"


@pytest.mark.parametrize("count", [2, 50, 51, 77, 300, 1000])
@pytest.mark.parametrize("columns", [("text", "label"), ("question", "answer")])
def test_from_2_to_1000_labels_are_a_classification(write, count, columns):
    rows = [
        {
            columns[0]: f"help me with matter {i % count} at counter {i}",
            columns[1]: f"matter_{i % count}",
        }
        for i in range(count * 4)
    ]
    examples = load(DataKnobs(data=write("rows.jsonl", lines(rows)))).examples
    task = tasks.detect(examples)
    assert (task.kind, len(task.labels)) == ("classification", count)
    assert tasks.settle_task(task, examples, "classification", None).labels == task.labels


def test_numbers_and_sentences_that_repeat_are_no_labels(write):
    sums = [{"question": f"what is {i}?", "answer": str(i % 100)} for i in range(400)]
    assert (
        tasks.detect(load(DataKnobs(data=write("s.jsonl", lines(sums)))).examples).kind
        != "classification"
    )
    long = [
        {"question": f"{i}", "answer": f"this is the long answer of kind {i % 3}"} for i in range(60)
    ]
    assert (
        tasks.detect(load(DataKnobs(data=write("l.jsonl", lines(long)))).examples).kind
        != "classification"
    )


def test_a_limit_that_cuts_a_sorted_file_is_told(write):
    path = write("rows.jsonl", lines(labelled(f"kind {i // 100}" for i in range(1000))))
    found = load(DataKnobs(data=path, limit=300))
    assert "--limit 300 read 3 labels only, and the rows are sorted" in messages(found)
    with pytest.raises(DataError, match="--limit 60 read the label 'kind 0' alone.*shuffle"):
        load(DataKnobs(data=path, limit=60))
    assert "--limit" not in messages(load(DataKnobs(data=path, limit=1000)))
    shuffled = labelled(f"kind {i % 10}" for i in range(1000))
    path = write("rows.jsonl", lines(shuffled))
    assert "--limit" not in messages(load(DataKnobs(data=path, limit=300)))


@given(labels=st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=9))
def test_labels_are_named_on_one_line(labels):
    assert listed(labels).isprintable()
    assert listed(["yes", " no\n", "a b"]) == "yes, ' no\\n', a b"


def test_what_is_said_of_labels_with_lines_is_one_line(write):
    found = held_out(write, ["up\n", "down\n"] * 10, ["up\n", "side\n"] * 6)
    assert found and all("\n" not in p.message for p in found)
    rows = [{"text": f"kite {i // 2}", "label": f"{i % 2} or\nso"} for i in range(20)]
    dataset = load(DataKnobs(data=write("rows.jsonl", lines(rows))))
    (told,) = [p.message for p in split(dataset, DataKnobs()).problems if "several" in p.message]
    assert "\n" not in told


def test_a_label_of_a_single_row_is_told(write):
    found = load(DataKnobs(data=write("rows.jsonl", lines(labelled([*["up", "down"] * 10, "lone"])))))
    assert "1 label has a single row (rows.jsonl:21)" in messages(found)


def held_out(write, train, test, columns=("text", "label")):
    """What is said of a test file beside a training file, each given by its labels."""
    paths = []
    for name, labels in (("a", train), ("b", test)):
        rows = [{columns[0]: f"{name} boat {i}", columns[1]: said} for i, said in enumerate(labels)]
        paths.append(write(f"{name}.jsonl", lines(rows)))
    knobs = DataKnobs(data=paths[0], test_data=paths[1], validation=0)
    return split(load(knobs), knobs).problems


@SLOW
@given(
    train=st.lists(st.sampled_from("abc"), min_size=9, max_size=24),
    test=st.lists(st.sampled_from("abcd"), min_size=1, max_size=24),
    columns=st.sampled_from([("text", "label"), ("question", "answer")]),
)
def test_held_out_rows_with_labels_that_nobody_can_learn_are_told(write, train, test, columns):
    train = [*train, *"abab"]  # labels that come again
    lost = [f"b.jsonl:{i + 1}" for i, label in enumerate(test) if label not in train]
    told = [p for p in held_out(write, train, test, columns) if "no training row has" in p.message]
    assert [list(p.rows) for p in told] == ([lost] if lost else [])
    if told:
        begun = "1 test row has a label" if len(lost) == 1 else f"{len(lost)} test rows have labels"
        assert told[0].message.startswith(begun) and "'" in told[0].message


def test_test_rows_of_one_label_alone_are_told(write):
    (told,) = held_out(write, ["up", "down"] * 10, ["up"] * 12)
    assert told.message.startswith("all 12 test rows have the label 'up'") and len(told.rows) == 12
    assert not held_out(write, ["up", "down"] * 10, ["up", "down"] * 6)
    free = [f"answer {i}" for i in range(20)]
    assert not held_out(write, free, ["other"] * 12, ("question", "answer"))


# -- rows that ask the same --------------------------------------------------------------------------


@SLOW
@given(
    answers=st.lists(st.integers(1, 4), min_size=12, max_size=40), seed=st.integers(0, 3),
    labels=st.booleans(),
)  # fmt: skip
def test_rows_that_ask_the_same_stay_together(write, answers, seed, labels):
    names = ("text", "label") if labels else ("question", "answer")
    rows = [
        {names[0]: f"Who keeps pier {q}?", names[1]: f"keeper {a}"}
        for q, n in enumerate(answers)
        for a in range(n)
    ]
    random.Random(seed).shuffle(rows)
    knobs = DataKnobs(data=write("rows.jsonl", lines(rows)), validation=0.2, test=0.2, split_seed=seed)
    splits = split(load(knobs), knobs)
    asked = [{e.messages[0]["content"] for e in part} for _, part in splits]
    assert not asked[0] & asked[1] and not asked[0] & asked[2] and not asked[1] & asked[2]
    assert ("several" in messages(splits)) is any(n > 1 for n in answers)


def test_a_prompt_that_all_rows_share_is_no_question(write):
    rows = [{"prompt": "Write a line.", "completion": f"line {i}"} for i in range(100)]
    knobs = DataKnobs(data=write("rows.jsonl", lines(rows)))
    splits = split(load(knobs), knobs)
    assert all(len(part) > 2 for _, part in splits) and "several" not in messages(splits)


def test_the_same_question_in_a_test_file_is_leakage(write):
    train = write("a.jsonl", lines({"question": f"q{i}", "answer": f"a{i}"} for i in range(30)))
    test = write("b.jsonl", lines({"question": f"q{i}", "answer": "other"} for i in (3, 77)))
    knobs = DataKnobs(data=train, test_data=test, validation=0)
    (told,) = [p for p in split(load(knobs), knobs).problems if p.severity == "error"]
    assert "1 of 2 test rows ask what training asks (b.jsonl:1 = a.jsonl:4)" in told.message


def test_rows_of_a_group_stay_together(write):
    rows = [{"question": f"q{i}", "answer": f"a{i}", "who": i % 10} for i in range(200)]
    knobs = DataKnobs(data=write("rows.jsonl", lines(rows)), group_by="{who}", test=0.3)
    splits = split(load(knobs), knobs)
    parts = [{int(e.messages[0]["content"][1:]) % 10 for e in part} for _, part in splits]
    assert not parts[0] & parts[2] and parts[2]


# -- answers by place --------------------------------------------------------------------------------

WAYS = {
    "text": lambda row, at: row[at], "letters": lambda row, at: "ABCDEFGH"[at],
    "places-from-0": lambda row, at: at, "places-from-1": lambda row, at: at + 1,
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@SLOW
@given(
    data=st.data(),
    odd=st.sampled_from(["words", "numbers", "letters", "places"]),
    count=st.integers(2, 5),
)
def test_an_answer_is_read_as_meant_or_asked_about(write, way, data, odd, count):
    pool = {"words": ["pier", "bay", "dock", "reef", "quay"], "numbers": ["7", "12", "30", "41", "55"],
            "letters": list("ABCDE"), "places": list("01234")}[odd][:count]  # fmt: skip
    rows, right = [], []
    for i in range(data.draw(st.integers(8, 16))):
        row = data.draw(st.permutations(pool))
        at = data.draw(st.integers(0, count - 1))
        rows.append({"q": f"q{i}", "options": row, "a": WAYS[way](row, at)})
        right.append(row[at])
    mapped = {"user": "{q}", "assistant": "{a}", "choices": "{options}"}
    path = write("rows.jsonl", lines(rows))
    try:
        found = load(DataKnobs(data=path, **mapped))
    except DataError as fault:
        assert "--answers-are" in str(fault) and way in str(fault)
    else:
        assert [e.messages[-1]["content"] for e in found.examples] == right
    said = load(DataKnobs(data=path, answers_are=way, **mapped))
    assert [e.messages[-1]["content"] for e in said.examples] == right


def test_a_choice_may_hold_a_line_separator(write):
    rows = [{"q": f"q{i}", "options": "a\u2028b\nc", "a": "c"} for i in range(3)]
    knobs = DataKnobs(
        data=write("r.jsonl", lines(rows)), user="{q}", assistant="{a}", choices="{options}"
    )
    assert load(knobs).examples[0].choices == ("a\u2028b", "c")


# -- a template's refusal ----------------------------------------------------------------------------


def test_a_refusal_of_the_template_names_rows_and_no_second_reason(write):
    from rung.data.report import report

    said = [("system", "s"), ("user", "a"), ("assistant", "r")]
    rows = [{"messages": [{"role": role, "content": text} for role, text in said]}] * 7
    knobs = DataKnobs(data=write("rows.jsonl", lines(rows)), validation=0, test=0)
    dataset = load(knobs)
    refusing = Template.of(
        tokenizer(
            template="{% for m in messages %}{% if m.content == 'a' and messages | length > 2 %}"
            "{{ raise_exception('no, never') }}{% endif %}"
            "{{ '<|im_start|>' + m.role + m.content + '<|im_end|>' }}{% endfor %}"
        )
    )
    errors = [
        p for p in report(dataset, split(dataset, knobs), refusing).problems if p.severity == "error"
    ]
    shown = [p.message for p in errors if "never" in p.message]
    assert len(shown) == 1 and "rows.jsonl:1, rows.jsonl:2" in shown[0] and "and 2 more" in shown[0]
    assert not any("too long" in p.message for p in errors)
    assert any("too long" in p.message for p in check([], None, template()))
