"""From a description to as many rows as were asked for, without duplicates, the same every time."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import combinations

import pytest
import yaml

from rung.cli import run
from rung.data import DataKnobs, load, split
from rung.errors import ConfigError, DataError, Interrupted
from rung.synthesis.duplicates import jaccard, shingles
from rung.synthesis.knobs import SynthKnobs
from rung.synthesis.pipeline import Watcher, _begun, synthesise
from rung.synthesis.teachers import open_teacher
from rung.synthesis.topics import ANGLES, Plan
from tests.synthesis.conftest import DESCRIPTION, fair, made_by, sentence, teaching, wanted


def prompts(made):
    return [row["messages"][0]["content"] for row in made.rows]


def test_as_many_rows_as_asked_for_each_with_its_provenance(teacher):
    made = made_by(teacher.name, examples=25)
    assert len(made.rows) == 25 and made.short is None
    for row in made.rows:
        about = row["provenance"]
        assert about["teacher"] == teacher.name and about["licence"] == "mit"
        assert about["topic"] in made.plan.topics and len(about["asked"]) == 2
        assert row["messages"][0]["content"] in about["asked"][1]
    assert max(Counter(r["provenance"]["topic"] for r in made.rows).values()) <= 6  # of five topics
    assert made.diversity.covered == made.diversity.topics == 5


def test_duplicates_are_replaced_until_the_number_is_there(rung_home):
    def lazy(body):
        """Every second prompt is one of two, one word changed."""
        if wanted(body) and "prompt" in wanted(body) and body["seed"] % 2:
            return json.dumps({"prompt": f"I am worried about my old tired dog {body['seed'] % 4}."})
        return fair(body)

    with teaching(lazy) as teacher:
        made = made_by(teacher.name, examples=20)
    assert len(made.rows) == 20 and made.refused["duplicate"] > 0
    for a, b in combinations(prompts(made), 2):
        assert jaccard(shingles(a), shingles(b)) < 0.7


def test_a_teacher_who_repeats_itself_ends_with_the_reason(rung_home, tmp_path, capsys):
    def parrot(body):
        return json.dumps({"prompt": "I worry."}) if "prompt" in (wanted(body) or {}) else fair(body)

    with teaching(parrot) as teacher:
        out = tmp_path / "rows.jsonl"
        words = ["--teacher", teacher.name, "--teacher-licence", "mit", "--examples", "5"]
        assert run(["synth", DESCRIPTION, "--out", str(out), *words]) == 1
    told = capsys.readouterr()
    assert "1 row (replies)" in told.out and "duplicate" in told.err
    assert "Fewer rows than were asked for" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("no JSON at all", "not in the form asked for"),
        ('{"prompt": 7}', "not in the form asked for"),
        ('{"prompt": ""}', "too short"),
        (json.dumps({"prompt": "Я очень беспокоюсь о завтрашнем экзамене."}), "another language"),
        (json.dumps({"prompt": "so glad you came " * 10}), "repeats itself"),
    ],
)
def test_what_is_refused_is_counted_by_its_reason(said, why, rung_home):
    with teaching(lambda body: said if "prompt" in (wanted(body) or {}) else fair(body)) as teacher:
        made = made_by(teacher.name, examples=2)
    assert not made.rows and set(made.refused) == {why} and why in made.short


def test_one_seed_gives_one_data_set_and_another_another(teacher):
    first, again = made_by(teacher.name), made_by(teacher.name)
    assert first.rows == again.rows and again.teachers[0].usage.completion_tokens == 0
    assert made_by(teacher.name, seed=1).rows != first.rows
    warmer = made_by(teacher.name, temperature=0.5)
    assert warmer.teachers[0].usage.kept <= 2  # the plan's


def test_an_interruption_loses_no_answer(rung_home):
    looks = iter(range(10_000))
    with teaching() as teacher:
        with pytest.raises(Interrupted, match="of 40 rows"):
            made_by(teacher.name, Watcher(stopping=lambda: next(looks) >= 3), examples=40)
        asked = len(teacher.asked)
        resumed = made_by(teacher.name, examples=40)
        assert 0 < asked < len(teacher.asked)
        bodies = [json.dumps(body, sort_keys=True) for _, body, _ in teacher.asked]
        assert len(set(bodies)) == len(bodies)  # nothing was asked twice
    with teaching() as fresh:
        assert prompts(made_by(fresh.name, examples=40)) == prompts(resumed)


def test_labels_are_balanced(teacher):
    made = made_by(teacher.name, kinds="labels", labels=["good", "bad", "odd"], examples=24)
    counts = Counter(row["label"] for row in made.rows)
    assert counts == {"good": 8, "bad": 8, "odd": 8}


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("topics", [2, 3, 8])
def test_label_angle_and_topic_are_independent(count, topics, teacher):
    plan = Plan(tuple(f"topic {i}" for i in range(topics)), tuple(f"label {i}" for i in range(count)))
    knobs = SynthKnobs(teacher=[teacher.name], kinds="labels", teacher_licence="mit")
    made = _begun(DESCRIPTION, knobs, None, None, plan, open_teacher)
    made.planned()
    drafts = [made._draft()[0] for _ in range(count * topics * len(ANGLES))]
    of = {"label": plan.labels, "angle": ANGLES, "topic": plan.topics}
    for one, other in combinations(of, 2):
        pairs = Counter((getattr(d, one), getattr(d, other)) for d in drafts)
        assert len(pairs) == len(of[one]) * len(of[other]) and len(set(pairs.values())) == 1


@pytest.mark.parametrize("count", [2, 4, 8])
def test_no_label_is_of_one_teacher_nor_after_the_same_rows(count, rung_home, tmp_path):
    mine = tmp_path / "mine.jsonl"
    mine.write_text("\n".join(json.dumps({"text": sentence(i), "label": "0"}) for i in range(8)))
    labels = [str(i) for i in range(count)]
    with teaching() as one, teaching() as other:
        knobs = SynthKnobs(
            teacher=[one.name, other.name], kinds="labels", labels=labels, seeds=str(mine),
            teacher_licence="mit", examples=40,
        )  # fmt: skip
        plan = Plan(("rain", "keys", "cats", "exams"))
        made = _begun(DESCRIPTION, knobs, None, None, plan, open_teacher)
        made.planned()
        drafts = [made._draft() for _ in range(8 * count)]
    assert set(Counter((d.label, writer) for d, writer in drafts).values()) == {4}
    assert set(Counter((d.label, d.examples) for d, _ in drafts).values()) == {2}


def test_labels_are_planned_by_the_teacher_where_none_are_given(teacher):
    made = made_by(teacher.name, kinds="labels", examples=8)
    assert len(made.plan.labels) == 4
    assert {row["label"] for row in made.rows} == set(made.plan.labels)


def test_a_plan_is_written_to_be_edited_and_then_followed(teacher, tmp_path, capsys):
    plan, out = tmp_path / "plan.yaml", tmp_path / "rows.jsonl"
    words = ["synth", DESCRIPTION, "--out", str(out), "--plan", str(plan), "--examples", "6"]
    words += ["--teacher", teacher.name, "--teacher-licence", "mit"]
    assert run(words) == 0 and not out.exists()
    content = yaml.safe_load(plan.read_text())
    assert content["topics"]
    plan.write_text(yaml.safe_dump({"topics": ["lost keys", "rain"]}))
    assert run(words) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert Counter(r["provenance"]["topic"] for r in rows) == {"lost keys": 3, "rain": 3}
    plan.write_text("topics: 3")
    capsys.readouterr()
    assert run([*words, "--replace"]) == 2 and "'topics' must be a list" in capsys.readouterr().err


def test_pairs_and_prompts_are_read_as_such(teacher, tmp_path):
    for kind, expected in (("pairs", "pairs"), ("replies", "replies")):
        out = tmp_path / f"{kind}.jsonl"
        words = ["--teacher", teacher.name, "--teacher-licence", "mit", "--examples", "25"]
        assert run(["synth", DESCRIPTION, "--out", str(out), "--kinds", kind, *words]) == 0
        found = load(DataKnobs(data=str(out)), None)
        assert found.kind == expected and len(found) == 25 and found.licence == "mit"
        assert not [p for p in found.problems if "not read" in p.message]
    made = made_by(teacher.name, kinds="prompts")
    assert all(set(row) == {"prompt", "provenance"} for row in made.rows)


def test_nothing_of_a_test_part_or_of_the_users_rows_leaks(rung_home, tmp_path):
    mine, theirs = tmp_path / "mine.jsonl", tmp_path / "test.jsonl"
    row = {
        "prompt": "How do I find my lost keys again?",
        "completion": "Retrace your steps.",
    }
    mine.write_text(json.dumps(row))
    theirs.write_text(json.dumps({"prompt": "Why does my cat never sleep?", "completion": "Ask."}))

    def copying(body):
        names = wanted(body) or {}
        copies = (row["prompt"], "Why does my cat never sleep?")
        if "prompt" in names and body["seed"] % 2:
            return json.dumps({"prompt": copies[body["seed"] // 2 % 2]})
        return fair(body)

    with teaching(copying) as teacher:
        made = made_by(teacher.name, seeds=str(mine), against=str(theirs))
        shown = json.dumps([body for _, body, _ in teacher.asked])
    assert made.refused["leak"] > 0 and len(made.rows) == 10
    assert not {row["prompt"], "Why does my cat never sleep?"} & set(prompts(made))
    assert row["prompt"] in shown and "never sleep" not in shown


def test_teachers_write_by_their_shares(rung_home):
    with teaching() as one, teaching() as other:
        knobs = SynthKnobs(
            teacher=[one.name, other.name], share=[3, 1], examples=20, teacher_licence="mit"
        )
        made = synthesise(DESCRIPTION, knobs)
        counts = Counter(row["provenance"]["teacher"] for row in made.rows)
    assert counts[one.name] == 15 and counts[other.name] == 5


def test_a_judge_takes_out_what_it_rates_too_low(rung_home):
    def strict(body):
        if "score" in (wanted(body) or {}):
            return json.dumps({"score": "2" if "river" in str(body["messages"]).casefold() else "4"})
        return fair(body)

    with teaching(strict) as teacher:
        made = made_by(teacher.name, judge=teacher.name)
    assert len(made.rows) == 10 and made.refused["rated too low"] > 0
    assert not [row for row in made.rows if "river" in str(row["messages"]).casefold()]


def test_questions_name_the_document_that_they_stand_on(rung_home, tmp_path):
    folder = tmp_path / "pages"
    folder.mkdir()
    for i in range(6):
        text = f"The {sentence(i).strip('.')} keeper{i} is there since {1800 + i}."
        (folder / f"page{i}.md").write_text(text)

    def reading(body):
        passage = body["messages"][-1]["content"].split("\n")[0].split()
        keeper = next(word for word in passage if word.startswith("keeper"))
        words = random.Random(body["seed"]).sample(passage[1:-1], 5)
        asked = f"Since when does {keeper} live by {' '.join(words)}?"
        return json.dumps({"question": asked, "answer": passage[-1]})

    with teaching(reading) as teacher:
        made = made_by(teacher.name, documents=str(folder), examples=12)
    counts = Counter(row["provenance"]["document"] for row in made.rows)
    assert len(made.rows) == 12 and made.kind.name == "questions"
    assert set(counts.values()) == {2} and len(counts) == 6
    assert all(row["answer"].strip(".") in row["provenance"]["passage"] for row in made.rows)
    assert all(row["provenance"]["gold"] == f"{row['provenance']['document']}#1" for row in made.rows)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kinds": "questions"}, "needs --documents"),
        ({"labels": ["a"]}, "--labels are for"),
        ({"share": [1.0, 2.0]}, "--share is given 2 times for 1"),
        ({"min_words": 9, "max_words": 8}, "--min-words is above"),
        ({"seeds": "missing.jsonl"}, "no file"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_asked(settings, said, teacher):
    with pytest.raises((ConfigError, DataError), match=said):
        made_by(teacher.name, **settings)
    assert not teacher.asked


def test_a_file_that_is_there_is_not_written_over(teacher, tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    out.write_text("mine")
    assert run(["synth", DESCRIPTION, "--out", str(out), "--teacher", teacher.name]) == 2
    assert "say --replace" in capsys.readouterr().err and out.read_text() == "mine"
    assert run(["synth", DESCRIPTION, "--out", str(tmp_path / "rows.csv")]) == 2


def test_what_was_written_splits_without_leaks(teacher, tmp_path):
    out = tmp_path / "rows.jsonl"
    words = ["--teacher", teacher.name, "--teacher-licence", "mit", "--examples", "40"]
    assert run(["synth", DESCRIPTION, "--out", str(out), *words]) == 0
    knobs = DataKnobs(data=str(out))
    found = load(knobs)
    assert not found.duplicates.count and not split(found, knobs).problems
