"""One-hot labels: proposed where exactly one column is 1 in each row, and never read otherwise."""

from __future__ import annotations

import csv
import io
import re
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data import DataKnobs, load
from rung.data.format_strings import Missing
from rung.data.one_hot import OneHot
from rung.errors import ConfigError, DataError

LABELS = ["sports", "politics", "arts"]
SAYS = "Some words about it"


def table(rows: list[list[object]], columns: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([columns, *rows])
    return out.getvalue()


def hot(at: int) -> list[int]:
    return [int(i == at) for i in range(len(LABELS))]


def exact(write, beside=(), shown=SAYS, column="comment") -> str:
    """A file of 30 rows with exactly one 1 each."""
    rows = [[i, f"{shown} {i}", *hot(i % 3), *(cell(i) for _, cell in beside)] for i in range(30)]
    return write("rows.csv", table(rows, ["id", column, *LABELS, *(name for name, _ in beside)]))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.sampled_from([(0, 1), ("0", "1"), (0.0, 1.0), ("0.0", "1.0"), (False, True), ("False", "TRUE")]),
)
def test_the_label_is_the_one_column_that_is_1_and_else_there_is_none(bits, spelled):
    row = {f"c{i}": spelled[bit] for i, bit in enumerate(bits)}
    label = OneHot(list(row))
    if sum(bits) == 1:
        assert label.fill(row) == f"c{bits.index(True)}"
    else:
        with pytest.raises(Missing, match="none of" if not any(bits) else "several of"):
            label.fill(row)


def test_what_is_proposed_reads_the_rows_by_the_names_of_columns(write):
    path = exact(write, [("lang", lambda i: "en" if i % 2 else "de")])
    with pytest.raises(DataError, match="Exactly one of sports, politics, arts is 1") as refused:
        load(DataKnobs(data=path))
    command = shlex.split(str(refused.value).rpartition(": ")[2])
    assert command[:3] == ["rung", "data", path]
    flags = dict(zip(command[3::2], command[4::2], strict=True))
    columns = flags["--label-columns"].split(",")
    found = load(DataKnobs(data=path, text=flags["--text"], label_columns=columns))
    assert [e.label for e in found.examples] == LABELS * 10
    assert found.examples[4].messages[0]["content"] == f"{SAYS} 4"
    assert found.examples[4].messages[1]["content"] == "politics"


def test_rows_with_several_or_none_are_told_and_never_read(write):
    rows = [[f"{SAYS} {i}", i % 2, int(i % 4 == 1), int(i % 5 == 0)] for i in range(30)]
    path = write("rows.csv", table(rows, ["comment", "toxic", "obscene", "insult"]))
    with pytest.raises(
        DataError, match=r"rows have several 1 \(the first is row 2\), 12 rows have none"
    ):
        load(DataKnobs(data=path))
    with pytest.raises(DataError) as refused:
        load(DataKnobs(data=path, text="{comment}", label_columns=["toxic", "obscene", "insult"]))
    assert re.search(
        r"rows.csv:3, .*: several of the columns toxic, obscene, insult hold", str(refused.value)
    )
    assert "rows.csv:4, " in str(refused.value) and "\n" not in str(refused.value)
    binary = load(DataKnobs(data=path, text="{comment}", label="{toxic}"))
    assert binary.labels == ("0", "1")


@pytest.mark.parametrize(
    ("beside", "column", "shown"),
    [
        ([("category", lambda i: "ab"[i % 2])], "comment", SAYS),  # a reply by its name
        ([], "comment", "17"),  # no text
    ],
)
def test_what_may_be_no_one_hot_label_is_not_proposed(write, beside, column, shown):
    with pytest.raises(DataError) as refused:
        load(DataKnobs(data=exact(write, beside, shown if shown == SAYS else "1", column)))
    assert "--label-columns" not in str(refused.value)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"text": "{comment}", "label": "{arts}"}, "--label and --label-columns exclude each other"),
        ({}, "--label-columns needs the text that a row's class is of: add --text"),
    ],
)
def test_flags_that_do_not_fit_together(write, knobs, told):
    with pytest.raises(ConfigError, match=told):
        load(DataKnobs(data=exact(write), label_columns=LABELS, **knobs))


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (["arts", "politic"], "no column 'politic', did you mean 'politics'"),
        (["comment"], "neither 0 nor"),
    ],
)
def test_columns_that_are_no_bits_or_not_there(write, columns, told):
    with pytest.raises(DataError, match=told):
        load(DataKnobs(data=exact(write), text="{comment}", label_columns=columns))


def test_pictures_with_one_hot_labels(tmp_path):
    pillow = pytest.importorskip("PIL.Image", reason="pictures need Pillow (extra pictures)")
    for i in range(6):
        pillow.new("RGB", (8, 8), (40 * i, 9, 9)).save(tmp_path / f"{i}.png")
    path = tmp_path / "rows.csv"
    rows = [[f"{i}.png", *(float(bit) for bit in hot(i % 3))] for i in range(6)]
    path.write_text(table(rows, ["image", *LABELS]))
    with pytest.raises(DataError, match="--label-columns sports,politics,arts"):
        load(DataKnobs(data=str(path)))
    found = load(DataKnobs(data=str(path), label_columns=LABELS))
    assert [e.label for e in found.examples] == LABELS * 2
