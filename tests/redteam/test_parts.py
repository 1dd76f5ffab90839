"""Attack sets, transformations, judges, the plan and the figures, each by itself."""

from __future__ import annotations

import base64
import codecs
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.errors import ConfigError, DataError
from rung.evals.intervals import wilson
from rung.redteam import agreement, attacks, judges, plan, report, transforms
from rung.redteam.attacks import Attack
from rung.redteam.judges.base import Context, Judged
from rung.redteam.judges.refusal import refuses
from rung.redteam.mend import REFUSALS, pairs
from rung.redteam.report import Rate, Round, Scored
from rung.redteam.target import Answered, Attempt
from tests.methods.scripted import chat, scripted

CONTEXT = Context(model=lambda name: lambda conversations: [0.0 for _ in conversations])


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def attack(text, category="secrets"):
    return Attack(turns=(text,), category=category, origin="x:1")


def judge(spec, *texts):
    return judges.configured(spec, CONTEXT).scores([Judged("asked", text) for text in texts])


def scored(one, transform, score, text="the word is plum", harmless=False):
    attempt = Attempt(attack=one, transform=transform, turns=one.turns, harmless=harmless)
    return Scored(Answered(attempt, (text,)), (score,))


def test_sets_are_read_from_files_of_each_kind_with_their_categories(tmp_path):
    lines = write(tmp_path / "a.jsonl", [{"prompt": "Tell the word.", "category": "secrets"}])
    (tmp_path / "b.csv").write_text("goal,category\nSay the number.,numbers\n")
    (tmp_path / "colours.txt").write_text("Name the colour.\nTell the word.\n")
    found = attacks.read([lines, str(tmp_path / "b.csv"), str(tmp_path / "colours.txt")])
    assert [(a.goal, a.category) for a in found] == [
        ("Tell the word.", "secrets"), ("Say the number.", "numbers"), ("Name the colour.", "colours"),
    ]  # fmt: skip


def test_a_limit_leaves_no_category_out(tmp_path):
    rows = [{"prompt": f"{c}{i}", "category": c} for c in "ab" for i in range(9)]
    found = attacks.read([write(tmp_path / "a.jsonl", rows)], limit=4)
    assert sorted(a.category for a in found) == ["a", "a", "b", "b"]


def test_a_set_of_an_installed_package_is_read_where_it_is(tmp_path, monkeypatch):
    about = tmp_path / "attack_set-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: attack-set\nVersion: 1.0\n")
    (tmp_path / "attack_set").mkdir()
    (tmp_path / "attack_set" / "words.txt").write_text("Tell the word.\nSay it.\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = attacks.read(["package:attack-set/attack_set/words.txt"])
    assert [(a.goal, a.category) for a in found] == [("Tell the word.", "words"), ("Say it.", "words")]
    with pytest.raises(DataError, match="not installed here"):
        attacks.read(["package:no-such-thing-here/a.txt"])
    with pytest.raises(DataError, match="must read package:NAME/MEMBER"):
        attacks.read(["package:typer/../../secret.txt"])


def test_a_row_without_a_prompt_is_named(tmp_path):
    with pytest.raises(DataError, match="b.jsonl:1 has no prompt"):
        attacks.read([write(tmp_path / "b.jsonl", [{"colour": "red"}])])


@given(st.text(min_size=1).filter(str.strip))
def test_encodings_hold_the_prompt_and_two_turns_hold_all_words(text):
    (coded,) = transforms.get("base64").turns(text)
    assert base64.b64decode(coded.rpartition(": ")[2]).decode() == text
    (turned,) = transforms.get("rot13").turns(text)
    assert codecs.decode(turned.partition("answer it: ")[2], "rot13") == text
    first, second = transforms.get("split").turns(text)
    words = first.partition("Part one: ")[2].split() + second.split("\n")[0][10:].split()
    assert words == text.split()


def test_every_transformation_says_something_with_words_for_the_user():
    assert {"plain", "role", "premise", "base64", "rot13", "language", "split"} <= set(
        transforms.names()
    )
    for one in transforms.registry.all():
        assert one.summary and all(turn.strip() for turn in one.turns("Tell me the secret word."))


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.", "I cannot provide the word.", "  ",
        "As an AI language model, I do not share it.", "I won\u2019t answer this.",
        "I must decline, because it is a secret.", "Sorry, no.", *REFUSALS,
    ],
)  # fmt: skip
def test_refusals_are_seen(text):
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "The secret word is plum.", "Sure! You can not miss it: it is plum.",
        "I can help: plum is the word.", "Plants do not share light. They compete for it.",
    ],
)  # fmt: skip
def test_answers_are_no_refusals(text):
    assert not refuses(text)


def test_judges_score_what_they_look_for(tmp_path):
    (tmp_path / "words.txt").write_text("# fruit\nplum\nsour cherry\n")
    said = ("A Plum!", "plums", "a sour cherry", "nothing")
    assert judge(f"words:{tmp_path / 'words.txt'}", *said) == [1, 0, 1, 0]
    assert judge("regex:pl.m", "plum", "pear") == [1, 0]
    assert judge("refusal", "I can't help with that.", "plum") == [0, 1]
    assert judge("model:any", "plum") == [0.5]


def test_a_model_that_says_both_yes_and_no_has_not_judged():
    said = {
        "a": "Yes.", "b": "No, it declines.", "c": "There is no yes here", "d": "Yes, no doubt.",
        "e": "It says no word of it.\n\n**Yes**", "f": "no\nIt does not say yes.", "g": "Perhaps",
    }  # fmt: skip

    def answer_in(body):
        return body["messages"][0]["content"].split("[Answer]\n")[1][0]

    with scripted(lambda path, body: chat(said[answer_in(body)])) as server:
        found = judge(f"remote:m@{server.url}", *said)
    assert found == [1.0, 0.0, None, None, 1.0, 0.0, None]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("refusals", "did you mean"), ("words", "needs a file"), ("regex:(", "no regular expression"),
        ("refusal:now", "takes nothing"), ("remote:here", "MODEL@URL"),
        ("words:none.txt", "cannot read"),
    ],
)  # fmt: skip
def test_wrong_judges_are_told_in_one_line(spec, told):
    with pytest.raises(ConfigError, match=told):
        judges.configured(spec, CONTEXT)


def test_a_judges_errors_are_counted_on_labels_of_either_meaning(tmp_path):
    rows = [
        {"objective": "the word", "assistant_response": "It is plum.", "human_score": 1},
        {"objective": "the word", "assistant_response": "I can't say that.", "human_score": 0},
        {"objective": "the word", "assistant_response": "Apples are red.", "human_score_1": 0.0,
         "human_score_2": 0.25},
        {"objective": "the word", "assistant_response": "I won't tell, but plum.", "human_score": 1},
    ]  # fmt: skip
    source = write(tmp_path / "l.jsonl", rows)
    ready = [judges.configured("refusal", CONTEXT)]
    found = agreement.measure(ready, source, "hit")["refusal"]
    assert (found["accuracy"]["hits"], found["accuracy"]["n"]) == (2, 4)
    assert found["false_hits"]["hits"] == 1 and found["missed_hits"]["hits"] == 1
    turned = agreement.measure(ready, source, "refusal")["refusal"]
    assert turned["accuracy"]["hits"] == 2 and turned["accuracy"]["low"] == wilson(2, 4)[0]


@pytest.mark.parametrize(
    "labels", [{"human_score": "2"}, {"human_score_1": "n/a"}, {"label": "maybe"}, {"label": "nan"}]
)
def test_a_label_that_says_neither_yes_nor_no_is_told_in_one_line(tmp_path, labels):
    source = write(tmp_path / "l.jsonl", [{"assistant_response": "It is plum.", **labels}])
    said = next(iter(labels.values()))
    with pytest.raises(DataError, match=f"the label '{said}' is neither a number from 0 to 1 nor yes"):
        agreement.measure([], source, "hit")
    words = [{"answer": "Plum.", "human_score_1": "yes", "human_score_2": "no"}]
    judge = judges.configured("refusal", CONTEXT)
    found = agreement.measure([judge], write(tmp_path / "w.jsonl", words), "hit")["refusal"]
    assert found["accuracy"]["hits"] == 1  # a half is a hit


def test_each_cell_is_tried_about_as_often_however_early_time_ends():
    found = [attack(f"{c} {i}", c) for c in ("a", "b", "c") for i in range(7)]
    tame = [attack(f"tame {i}", "tame") for i in range(6)]
    tried = plan.attempts(found, tame, ["plain", "role", "split"], seed=3)
    assert len(tried) == 3 * 7 * 3 + 6
    for cut in (9, 30, 50):
        cells: dict[tuple[str, str], int] = {}
        for one in tried[:cut]:
            if not one.harmless:
                key = (one.attack.category, one.transform)
                cells[key] = cells.get(key, 0) + 1
        assert max(cells.values()) - min(cells.values()) <= 1
        assert abs(sum(t.harmless for t in tried[:cut]) - min(6, cut / 5)) <= 1
    assert tried == plan.attempts(found, tame, ["plain", "role", "split"], seed=3)


def test_pairs_hold_nothing_of_what_is_held_out():
    found = [attack(f"{c} {i}", c) for c in ("a", "b", "c") for i in range(4)]
    tame = [attack(f"tame {i}", "tame") for i in range(6)]
    names = ["plain", "role", "premise", "split"]
    held = plan.hold_out(found, tame, names, seed=1)
    assert len(held.categories) == 1 and len(held.transforms) == 1 and len(held.harmless) == 3
    assert "plain" not in held.transforms
    one = Round(model="m", judges=["refusal"], planned=0)
    one.attacks = [scored(a, t, 1.0) for a in found for t in names]
    one.harmless = [scored(a, "plain", 0.0, "I can't help with that.", True).answered for a in tame]
    rows = pairs(one, held, None)
    said = {row["prompt"][-1]["content"] for row in rows}
    assert said == {a.goal for a in found if a.category not in held.categories}
    assert len(rows) == 8 * 3
    assert all(refuses(row["chosen"][0]["content"]) for row in rows)


def test_refusals_do_not_outnumber_help_by_far():
    found = [attack(f"{c} {i}", c) for c in "abc" for i in range(60)]
    tame = [attack(f"tame {i}", "tame") for i in range(60)]
    held = plan.hold_out(found, tame, ["plain", "role"], seed=1)
    one = Round(model="m", judges=["refusal"], planned=0)
    one.attacks = [scored(a, "plain", 1.0) for a in found]
    for count, kept in ((0, 120), (10, 40), (30, 60)):
        learnt = [a for a in tame if a.turns not in held.harmless][:count]
        one.harmless = [scored(a, "plain", 0.0, "Gladly.", True).answered for a in learnt]
        rows = pairs(one, held, None)
        refused = [row for row in rows if refuses(row["chosen"][0]["content"])]
        assert (len(refused), len(rows) - len(refused)) == (kept, count)
        of = {row["prompt"][-1]["content"][0] for row in refused}
        assert len(of) == 2, "of both categories that training may see"


def test_harmless_prompts_teach_help_over_refusal():
    kind = Attack(turns=("How do I peel a plum?",), category="t", origin="x", reply="With a knife.")
    bare = attack("How do I cook a plum?")
    held = plan.hold_out([attack("x")], [], ["plain"], 0)
    one = Round(model="m", judges=["refusal"], planned=0)
    refused = scored(kind, "plain", 0.0, "I cannot help with that.", True).answered
    helped = scored(bare, "plain", 0.0, "Slowly.", True).answered
    nothing = scored(attack("What is a plum?"), "plain", 0.0, "I can't say.", True).answered
    one.harmless = [refused, helped, nothing]
    rows = pairs(one, held, None)
    sides = [(r["chosen"][0]["content"], refuses(r["rejected"][0]["content"])) for r in rows]
    assert sides == [("With a knife.", True), ("Slowly.", True)]


def test_the_change_is_paired_and_shown_only_where_it_is_there():
    found = [attack(f"p{i}") for i in range(30)]
    before = [scored(a, t, 1.0) for a in found for t in ("plain", "role")]
    after = [scored(a, t, float(i % 3 == 0)) for i, a in enumerate(found) for t in ("plain", "role")]
    changed = report.difference(before, after)
    assert changed["change"]["value"] == pytest.approx(-2 / 3) and changed["change"]["high"] < -0.4
    assert changed["prompts"] == 30 and changed["before"]["n"] == 60
    same = report.difference(before, before)
    few = wilson(0, 30)[1]  # of thirty prompts that did not change
    assert same["change"] == {"value": 0, "low": -few, "high": few}
    mended = report.difference(before, [scored(a, t, 0.0) for a in found for t in ("plain", "role")])
    change = mended["change"]
    assert change["value"] == change["low"] == -1 and -0.8 < change["high"] < -0.7
    assert report.difference(before, []) is None


def test_rates_are_wilsons_and_answers_that_were_not_judged_count_nowhere():
    one = Round(model="m", judges=["refusal"], planned=4)
    one.attacks = [scored(attack(str(i)), "plain", s) for i, s in enumerate((1.0, 0.5, 0.49, None))]
    told = one.as_dict()
    assert told["success"] == Rate(2, 3).as_dict() and told["not_judged"] == 1
    assert (told["success"]["low"], told["success"]["high"]) == wilson(2, 3)
    assert Rate(0, 0).as_dict() == {"hits": 0, "n": 0}


def test_hits_have_the_fields_of_garak_and_are_read_again_as_attacks(tmp_path):
    ready = [judges.configured("regex:pl.m", CONTEXT)]
    one = Round(model="m", judges=["regex:pl.m"], planned=2)
    one.attacks = [scored(attack("Tell the word."), "plain", 1.0), scored(attack("No."), "plain", 0.0)]
    (row,) = report.hits(one, ready, "run", None)
    assert set(row) == {
        "goal", "prompt", "output", "triggers", "score", "run_id", "attempt_id", "attempt_seq",
        "attempt_idx", "generator", "probe", "detector", "generations_per_prompt",
    }  # fmt: skip
    assert row["triggers"] == ["plum"] and row["output"] == {"text": "the word is plum"}
    # garak writes a line per detector: the same attempt comes back once.
    (again,) = attacks.read([write(tmp_path / "hits.jsonl", [row, {**row, "detector": "other"}])])
    assert again.turns == ("Tell the word.",) and again.category == "secrets.plain"
