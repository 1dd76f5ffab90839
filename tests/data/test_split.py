"""The split: stable, never through equal rows; leakage is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.data import DataKnobs, load, split
from rung.data.dataset import Dataset
from rung.errors import ConfigError
from rung.types import Example


def dataset(*texts: str, **held) -> Dataset:
    rows = tuple(Example(text=t, origin=f"x:{i}") for i, t in enumerate(texts, 1))
    return Dataset("x", "x.txt", "text", "the text column", rows, "0", **held)


def sets(splits) -> dict[str, list[str]]:
    return {name: [e.text for e in rows] for name, rows in splits}


many = st.lists(st.text(max_size=4), max_size=60)
shares = st.floats(0, 0.45)


@given(texts=many, validation=shares, test=shares, seed=st.integers(0, 5))
def test_equal_rows_are_never_separated_and_none_is_lost(texts, validation, test, seed):
    knobs = DataKnobs(validation=validation, test=test, split_seed=seed)
    splits = split(dataset(*texts), knobs)
    found = sets(splits)
    keys = [{e.content_key for e in rows} for _, rows in splits]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]
    assert sorted(sum(found.values(), [])) == sorted(texts)
    assert found["train"] or not texts
    assert not [p for p in splits.problems if p.severity == "error"]


@given(more=many)
def test_adding_rows_moves_none(more):
    texts = [f"row {i}" for i in range(60)]
    before, after = (sets(split(dataset(*t), DataKnobs())) for t in (texts, [*more, *texts]))
    for name, rows in before.items():
        assert set(rows) <= set(after[name])


def test_shares_are_about_what_was_asked_for():
    found = sets(
        split(dataset(*(f"row {i}" for i in range(2000))), DataKnobs(validation=0.2, test=0.1))
    )
    assert 340 < len(found["validation"]) < 460
    assert 150 < len(found["test"]) < 250


def test_small_data_still_gets_its_sets():
    for seed in range(20):
        found = sets(split(dataset("a", "b", "c"), DataKnobs(split_seed=seed)))
        assert all(found.values())
    splits = split(dataset("a"), DataKnobs())
    assert len(splits.train) == 1
    assert {p.message.split(" set")[0].rsplit(" ", 1)[1] for p in splits.problems} == {
        "validation",
        "test",
    }


def test_variants_of_case_and_blanks_stay_together():
    assert Example(text="The  dog\n").content_key == Example(text="the dog").content_key
    assert Example(text="dog").content_key != Example(text="cat").content_key


def test_shares_that_leave_nothing():
    with pytest.raises(ConfigError, match="nothing to train on"):
        split(dataset("a"), DataKnobs(validation=0.5, test=0.5))


@pytest.mark.faults
def test_the_same_text_in_train_and_test_is_named_and_refused(write):
    knobs = DataKnobs(data=write("train.txt", "a\nb\nc\nd"), test_data=write("test.txt", "x\nB \nc"))
    knobs.validation = 0
    found = load(knobs)
    splits = split(found, knobs)
    assert [e.text for e in splits.test] == ["x", "B ", "c"]
    (problem,) = splits.problems
    assert problem.severity == "error"
    assert (
        "2 of 3 test rows are also in training (test.txt:2 = train.txt:2, test.txt:3 = train.txt:3)"
        in (problem.message)
    )
    assert "--allow-leakage" in problem.message
    knobs.allow_leakage = True
    assert [p.severity for p in split(found, knobs).problems] == ["warning"]
