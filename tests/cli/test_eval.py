"""`rung eval`: what it shows, keeps and refuses."""

from __future__ import annotations

import json
import re

import pytest

from tests.cli.conftest import FAST, SCRATCH


@pytest.fixture
def choices(tmp_path):
    """Data with labels."""
    path = tmp_path / "choices.jsonl"
    rows = [{"text": f"row number {i}", "label": ["good", "bad"][i % 2]} for i in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_models_are_compared_and_kept(studio, ask, monkeypatch, choices):
    from rung.store import Store

    monkeypatch.setenv("RUNG_HOME", str(studio))
    found = ask("eval", "coach", "kid", "--data", choices, "--part", "all", "--json")
    assert found.code == 0, found.err
    assert "task: classification (bad, good), metric accuracy; 60 items" in found.err
    out = json.loads(found.out)
    assert [m["name"] for m in out["models"]] == ["coach", "kid"]
    one = out["models"][0]
    assert one["low"] <= one["value"] <= one["high"] and one["n"] == len(one["items"]) == 60
    assert out["comparisons"][0]["model"] == "kid" and "60 items" in out["comparisons"][0]["says"]
    with Store.open() as store:
        kept = store.evaluations.list(model="kid")
    assert [(k.metric, k.value, k.n) for k in kept if k.metric == "accuracy"] == [
        ("accuracy", out["models"][1]["value"], 60)
    ]


def test_the_test_part_of_generation_as_a_table(studio, ask, monkeypatch, good):
    monkeypatch.setenv("RUNG_HOME", str(studio))
    found = ask("eval", "coach", "--data", good, "--metric", "chrf", "--items", "2")
    assert found.code == 0, found.err
    head, line = found.out.strip().splitlines()
    assert head.split("\t")[:3] == ["model", "chrf", "95% interval"] and line.startswith("coach\t")
    assert "2 items show little" in found.err


KNOWN = re.compile(r"(\d+) of (\d+) items are among the training rows of (\w+)")


def known(found) -> list[tuple[int, int, str]]:
    """What was said of rows that models know: how many of how many, and who."""
    assert found.code == 0, found.err
    return [(int(a), int(b), name) for a, b, name in KNOWN.findall(found.err)]


def test_without_data_a_model_is_measured_on_what_its_own_held_out(studio, ask, monkeypatch, choices):
    monkeypatch.setenv("RUNG_HOME", str(studio))
    split = ("--test", "0.3", "--split-seed", "5")
    made = ask("tune", "sorter", "--data", choices, *FAST[2:], "--base", SCRATCH, *split, "--replace")
    assert made.code == 0, made.err
    own = ask("eval", SCRATCH, "sorter", "--json")
    same = ask("eval", "sorter", "--data", choices, *split, "--json")
    assert known(own) == known(same) == []
    first, second = (json.loads(found.out)["models"][-1] for found in (own, same))
    assert first["items"] == second["items"]
    # Another split of the same data holds rows that the model has learnt.
    other = ask("eval", "coach", "sorter", "--data", choices, "--test", "0.5", "--json")
    n = json.loads(other.out)["models"][0]["n"]
    ((count, of, who),) = known(other)
    assert who == "sorter" and of == n and 0 < count < n
    # So does a model that goes on from it, on its base and by its method.
    rows = [{"text": f"new {i}", "label": ["good", "bad"][i % 2]} for i in range(30)]
    more = choices.parent / "more.jsonl"
    more.write_text("\n".join(map(json.dumps, rows)))
    made = ask("tune", "heir", "--data", more, "--parent", "sorter", *FAST[2:], "--replace")
    assert made.code == 0, made.err
    ((count, of, who),) = known(ask("eval", "heir", "--data", choices, "--part", "all", "--json"))
    assert who == "heir" and of == 60 and 20 < count < 50
    # Rows that have come since are new to it, and it is not measured on them unasked.
    more.write_text(more.read_text() + "\n" + json.dumps({"text": "newer", "label": "good"}))
    assert known(ask("eval", "heir", "--data", more, "--part", "all", "--json")) == []
    assert "more.jsonl is not what heir was trained on" in ask("eval", "heir").refused()
    more.unlink()
    assert "more.jsonl" in ask("eval", "heir").refused()
    assert "no data given" in ask("eval", SCRATCH).refused()


def test_rows_are_known_by_the_split_of_the_training(studio, ask, monkeypatch, choices, tmp_path):
    monkeypatch.setenv("RUNG_HOME", str(studio))
    held = tmp_path / "held.jsonl"
    held.write_text("\n".join(json.dumps({"text": f"h {i}", "label": "good"}) for i in range(10)))
    flags = ("--data", choices, "--test-data", held, "--validation", "0", *FAST[2:], "--base", SCRATCH)
    made = ask("tune", "whole", *flags, "--replace")
    assert made.code == 0, made.err
    found = ask("eval", "whole", "--data", choices, "--json")  # all of its rows were trained on
    n = json.loads(found.out)["models"][0]["n"]
    assert known(found) == [(n, n, "whole")]
    grouped = ("--group-by", "{label}", "--validation", "0", "--test", "0.5")
    made = ask("tune", "grouped", "--data", choices, *grouped, *FAST, "--replace")
    assert made.code == 0, made.err
    ((count, of, who),) = known(ask("eval", "grouped", "--data", choices, "--part", "all", "--json"))
    assert (count, of, who) == (30, 60, "grouped")
    # A base that is a trained model knows its rows too.
    grown = ("--method", "scratch", "--depth", "1", "--width", "16", "--heads", "1")
    made = ask("tune", "grown", "--data", choices, *grown, *FAST[2:], "--replace")
    assert made.code == 0, made.err
    ((count, of, who),) = known(
        ask("eval", "model:grown", "--data", choices, "--part", "all", "--json")
    )
    assert who == "model" and of == 60 and count > 40


def test_models_of_two_bases_in_one_call(studio, ask, monkeypatch, choices, good):
    monkeypatch.setenv("RUNG_HOME", str(studio))
    other = SCRATCH.replace("width=32", "width=16")
    made = ask("tune", "thin", "--data", good, *FAST[2:], "--base", other, "--replace")
    assert made.code == 0, made.err
    found = ask("eval", "coach", "thin", "kid", "--data", choices, "--json")
    assert found.code == 0, found.err
    models = json.loads(found.out)["models"]
    assert [m["name"] for m in models] == ["coach", "thin", "kid"]
    assert models[0]["base"] == models[2]["base"] != models[1]["base"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--metric", "acuracy"), "there is no acuracy, did you mean 'accuracy'"),
        (("--task", "classify"), "--task is 'classify', did you mean 'classification'"),
        (("--part", "tset"), "--part is 'tset', did you mean 'test'"),
        (("--items", "0"), "--items is 0"),
        (("--test", "0"), "the test part has no rows"),
        (("--judge", "nowhere"), "must begin with http"),
    ],
)
def test_mistakes_are_one_line(studio, ask, monkeypatch, choices, flags, said):
    monkeypatch.setenv("RUNG_HOME", str(studio))
    assert said in ask("eval", "coach", "--data", choices, *flags).refused()


def test_data_that_cannot_be_measured_is_refused_before_anything_loads(ask, rung_home, tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"t {i}", "label": "yes"}) for i in range(30)))
    assert "same answer 'yes'" in ask("eval", "coach", "--data", path).refused()
    labels = ["yes", "Yes", "no"]
    path.write_text(
        "\n".join(json.dumps({"text": f"t {i}", "label": labels[i % 3]}) for i in range(30))
    )
    assert "differ only in case" in ask("eval", "coach", "--data", path).refused()


def test_answers_are_scored_by_rewards(studio, ask, monkeypatch, good):
    monkeypatch.setenv("RUNG_HOME", str(studio))
    shown = ("eval", "coach", "--data", good, "--items", "3", "--part", "all", "--json")
    found = ask(*shown, "--reward", "length:9999", "--reward", "regex:.*")
    assert found.code == 0, found.err
    (model,) = json.loads(found.out)["models"]
    assert model["metric"] == "reward" and model["items"] == [2.0, 2.0, 2.0] and model["value"] == 2.0
    nothing = ask(*shown, "--reward", "length:5t")
    assert nothing.code == 2 and nothing.err.endswith("rung: reward length scored none of 3 answers\n")
    assert "did you mean 'number'" in ask(*shown, "--reward", "numbr").refused()
    assert "exclude each other" in ask(*shown, "--reward", "exact", "--metric", "chrf").refused()


@pytest.fixture
def calm(studio, ask, monkeypatch, tmp_path):
    """A steered model, and the pairs that it was made of."""
    monkeypatch.setenv("RUNG_HOME", str(studio))
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": f"say {i}", "chosen": f"yes gladly {i}", "rejected": f"no never {i}"}
        for i in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    made = ask(
        "tune", "calm", "--data", path, "--base", SCRATCH.replace("layers=2", "layers=3"), "--dtype",
        "float32", "--method", "steering", "--replace", "--validation", "0.3",
    )  # fmt: skip
    assert made.code == 0, made.err
    return path


def test_a_steered_model_is_measured_at_each_strength(calm, ask):
    found = ask("eval", "calm", "--data", calm, "--part", "all", "--strengths", "0,0.5,1,40", "--json")
    assert found.code == 0, found.err
    models = json.loads(found.out)["models"]
    assert [m["name"] for m in models] == [f"calm at {s}" for s in ("0", "0.5", "1", "40")]
    assert [m["strength"] for m in models] == [0.0, 0.5, 1.0, 40.0]
    perplexities = [m["more"]["perplexity"] for m in models]
    assert len(set(perplexities)) == 4 and all(p >= 1 for p in perplexities)
    assert perplexities[-1] > perplexities[0]  # forty times the shift damages any base
    plain = ask("eval", "calm", "--data", calm, "--part", "all", "--json")
    own = json.loads(plain.out)["models"][0]
    assert own["value"] == models[2]["value"]  # its own strength is 1
    table = ask("eval", "calm", "--data", calm, "--part", "all", "--strengths", "0", "--strengths", "1")
    head, first, second = table.out.strip().splitlines()
    assert head.split("\t")[:2] == ["model", "preference_accuracy"] and "perplexity" in head
    assert first.startswith("calm at 0\t") and second.startswith("calm at 1\t")
    from rung.store import Store

    with Store.open() as store:
        kept = {k.metric for k in store.evaluations.list(model="calm")}
    assert {"preference_accuracy_at_0", "preference_accuracy_at_40"} <= kept


def test_strengths_of_a_model_that_is_not_steered_are_refused(calm, ask):
    said = ask("eval", "coach", "--data", calm, "--part", "all", "--strengths", "0,1").err
    assert "--strengths is for steered models, and 'coach' is none" in said
    assert (
        "--strengths is '0;1', must be a number"
        in ask("eval", "calm", "--data", calm, "--strengths", "0;1").refused()
    )


def test_win_rate_is_measured_against_the_base_and_the_data(calm, ask):
    flags = ("--data", calm, "--part", "all", "--items", "8", "--metric", "win_rate")
    assert "say --judge model:NAME" in ask("eval", "calm", *flags).refused()
    for against in ("base", "chosen"):
        found = ask("eval", "calm", *flags, "--judge", "length:90-99", "--against", against, "--json")
        assert found.code == 0, found.err
        (row,) = json.loads(found.out)["models"]
        assert row["metric"] == "win_rate" and 0 <= row["low"] <= row["value"] <= row["high"] <= 1
        beside = {"win_rate_equal_length", "longer", "repeats", "other_repeats"}
        assert beside == set(row["more"])
