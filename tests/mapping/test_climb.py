"""Climbs of mappings: parts that share nothing, thresholds, order of rows, what is known."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.errors import ConfigError, DataError, Interrupted
from rung.ladder.bar import Bar
from rung.mapping.climb import climb
from rung.mapping.knobs import MapKnobs
from rung.mapping.problem import FOLDS, problem_of, split
from rung.mapping.records import Record, Table, words
from rung.mapping.table import rows_of
from tests.mapping.world import hashed, known, problem, tables


@given(st.integers(0, 1000), st.integers(8, 40), st.one_of(st.none(), st.integers(0, FOLDS - 1)))
@settings(max_examples=40)
def test_no_part_knows_what_another_asks(seed, count, fold):
    generator = random.Random(seed)
    left = [Record(f"l{i}", f"name{generator.randrange(count)}") for i in range(count)]
    pairs = {r.id: frozenset({f"r{generator.randrange(count)}"}) for r in left}
    groups = {r.id: str(generator.randrange(count)) for r in left}
    try:
        parts = split(left, pairs, groups, MapKnobs(seed=seed), fold)
    except DataError as fault:
        assert "too few groups" in str(fault)
        return
    placed = {"train": parts.train, "validation": parts.validation, "test": parts.test}
    assert sorted(i for rows in placed.values() for i in rows) == list(range(count))
    seen: dict[tuple[str, str], str] = {}
    for part, rows in placed.items():
        for i in rows:
            keys = [("words", left[i].words), ("group", groups[left[i].id])]
            for key in [*keys, *(("right", r) for r in pairs[left[i].id])]:
                assert seen.setdefault(key, part) == part


def test_folds_test_every_known_record_once():
    left, _ = tables()
    found = [split(left.records, known(), {}, MapKnobs(), fold).test for fold in range(FOLDS)]
    assert sorted(np.concatenate(found)) == list(range(60))


def mapping(outcome) -> dict[str, tuple[str, str, str]]:
    return {r.left: (r.right, f"{r.confidence:.9f}", r.status) for r in rows_of(outcome)}


def test_the_order_of_rows_changes_nothing_but_the_order_of_the_table():
    left, right = tables()
    pairs = known(2)
    found = []
    for seed in (None, 1):
        tables_now = []
        for table in (left, right):
            records = list(table.records)
            if seed is not None:
                random.Random(seed).shuffle(records)
            tables_now.append(replace(table, records=tuple(records)))
        knobs = MapKnobs(only=["edit_distance", "tfidf", "encoder", "linear_probe"])
        made = problem_of(*tables_now, dict(sorted(pairs.items(), reverse=seed is not None)), knobs)
        made.vectors.of = hashed
        made.vectors._encoder = None
        outcome = climb(made)
        assert [r.left for r in rows_of(outcome)] == [r.id for r in tables_now[0].records]
        found.append((outcome.winner.name, mapping(outcome)))
    assert found[0] == found[1]


def test_a_higher_threshold_maps_fewer_and_none_that_a_lower_one_does_not():
    outcome = climb(problem())
    rows = np.arange(60)
    before = None
    for at in np.linspace(0, 1, 21):
        mapped = set(np.flatnonzero(outcome.winner.answers(rows, float(at)) >= 0))
        assert before is None or mapped <= before
        before = mapped


def test_known_pairs_stand_as_they_are_known_and_their_partners_are_nobody_elses():
    pairs = {"l00": frozenset({"r05"}), "l01": frozenset(), **known(7)}
    pairs["l00"] = frozenset({"r05"})
    rows = rows_of(climb(problem(pairs)))
    by_left = {r.left: r for r in rows}
    assert (by_left["l00"].right, by_left["l00"].by, by_left["l00"].status) == ("r05", "known", "sure")
    assert (by_left["l01"].right, by_left["l01"].status) == ("", "none")
    right = [r.right for r in rows if r.right]
    assert len(right) == len(set(right))
    assert by_left["l05"].right != "r05"


def test_records_that_have_no_partner_are_told_to_be_none_of_these():
    left, right = tables()
    strangers = tuple(Record(f"x{i:02}", f"zq{'kvwj'[i % 4] * (3 + i)}") for i in range(20))
    left = Table("ours.csv", left.records + strangers)
    pairs = known(2) | {r.id: frozenset() for r in strangers[:12]}
    made = problem_of(left, right, pairs, MapKnobs(only=["edit_distance"]))
    outcome = climb(made)
    rows = {r.left: r for r in rows_of(outcome)}
    assert all(rows[r.id].status == "none" and not rows[r.id].right for r in strangers[12:])
    assert outcome.winner.test.value("precision") == 1.0


def test_a_climb_stops_at_the_cheapest_rung_that_clears_the_bar_and_measures_the_test_once():
    outcome = climb(problem(), Bar.parse("f1=0.5"))
    assert outcome.winner.name == "edit_distance" and outcome.cleared
    assert {t.name: t.reason for t in outcome.tried}["tfidf"] == "the bar was cleared below"
    assert outcome.winner.test is not None and outcome.comparisons == {}
    every = climb(problem(all=True), Bar.parse("f1=0.5"))
    assert every.winner.name == "edit_distance" and set(every.comparisons) == {"tfidf"}


def test_a_bar_that_nobody_clears_is_said_to_be_missed():
    made = problem({k: frozenset({f"r{59 - int(k[1:]):02}"}) for k in known()})  # names tell nothing
    outcome = climb(made, Bar.parse("accuracy=0.99"))
    assert outcome.cleared is False
    assert all(not one.reason for one in outcome.tried)


def test_a_probe_learns_which_scores_to_believe():
    """Names mislead, as each is that of another record; what stands beside them tells."""
    left, right = tables()
    told = [Record(r.id, r.name, f"code{i} of all") for i, r in enumerate(left.records)]
    moved = [
        Record(r.id, left.records[i - 7].name, f"code{i} of many") for i, r in enumerate(right.records)
    ]
    made = problem_of(
        Table("a.csv", tuple(told)), Table("b.csv", tuple(moved)), known(),
        MapKnobs(only=["edit_distance", "tfidf", "linear_probe"]),
    )  # fmt: skip
    made.vectors.of = hashed
    values = {one.name: one.validation.value("f1") for one in climb(made).tried}
    assert values["edit_distance"] < 0.2 and values["linear_probe"] > 0.8


def test_without_pairs_only_rungs_that_learn_nothing_are_tried_and_nothing_is_measured():
    made = problem({}, only=["edit_distance", "tfidf", "linear_probe"])
    outcome = climb(made)
    assert outcome.winner.name == "tfidf" and outcome.winner.test is None
    assert "--pairs" in {t.name: t.reason for t in outcome.tried}["linear_probe"]
    with pytest.raises(ConfigError, match="--pairs"):
        climb(problem({}), Bar.parse("f1=0.5"))
    with pytest.raises(DataError, match="no rung can be tried"):
        climb(problem({}, only=["linear_probe"]))


def test_a_climb_stops_where_it_is_told_to():
    made = problem()
    made.stopping = lambda: True
    with pytest.raises(Interrupted):
        climb(made)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("customerName", "customer name"),
        ("AWS::S3::BucketPolicy", "aws s3 bucket policy"),
        ("HTTPServer_error404", "http server error 404"),
        ("größe_der_Straße", "größe der straße"),
        ("ec2_v1_ipv4Address", "ec2 v1 ipv4 address"),
        ("***", "***"),
    ],
)
def test_names_are_parted_where_case_digits_and_marks_part_them(name, said):
    assert words(name) == said
