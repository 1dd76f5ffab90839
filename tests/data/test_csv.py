"""CSV as people and programs write it: rarer quoting, lines above the table, repeated headers."""

from __future__ import annotations

import csv

import pytest

from rung.data.sources import read

from .test_layouts import as_csv, rows_of

KITES = [{"text": f"kite {i}, so it is", "label": "up" if i % 2 else "down"} for i in range(8)]
QUOTED = {
    "backslashes": ("text,label", '"kite {0}, so it is",{1}', '"a \\"kite\\", red",up'),
    "single marks": ("text,label", "'kite {0}, so it is',{1}", "'a \"kite\", red',up"),
    "blanks behind commas": ("text, label", '"kite {0}, so it is", {1}', '"a ""kite"", red", up'),
    "blanks before quotes": ("label, text", '{1}, "kite {0}, so it is"', 'up, "a ""kite"", red"'),
}


@pytest.mark.parametrize("way", QUOTED)
def test_csv_quoted_in_rarer_ways(write, way):
    head, row, last = QUOTED[way]
    cells = [row.format(i, "up" if i % 2 else "down") for i in range(8)]
    found = rows_of(write("rows.csv", "\n".join([head, *cells, last])))
    assert [dict(sorted(r.items())) for r in found] == [
        dict(sorted(r.items())) for r in [*KITES, {"text": 'a "kite", red', "label": "up"}]
    ]


@pytest.mark.parametrize("above", ["Export of 1 May,\n", "# made by a tool\n", "Report\n\nof 1 May\n"])
def test_lines_above_a_table_are_told(write, above):
    table = as_csv(KITES, ",", "\n", csv.QUOTE_MINIMAL)
    found = read(write("rows.csv", above + table))
    assert [dict(row) for _, row in found.rows] == KITES
    assert "stands above the table and is not read" in found.notes[0]


def test_a_header_that_stands_again_is_told(write):
    table = as_csv(KITES, ",", "\n", csv.QUOTE_MINIMAL)
    found = read(write("rows.csv", table + table))
    assert [dict(row) for _, row in found.rows] == KITES * 2
    assert found.notes == ["the header stands again in rows.csv:10, which is not read as a row"]


@pytest.mark.parametrize("bad", ['a kite,"up\n', '"a kite,up\n'])
def test_a_quotation_mark_that_is_never_closed_swallows_no_rows(write, bad):
    table = "text,label\n" + "a stone,down\n" * 5 + bad + "a stone,down\n" * 5
    found = read(write("rows.csv", table))
    list(found.rows)
    assert found.faults == [
        "rows.csv: the quotation mark that opens in the record of line 7 is never closed"
    ]


@pytest.mark.parametrize("line", ['"sep=;"', "SEP=;", "sep=; "])
def test_the_line_that_names_the_separator(write, line):
    assert (
        rows_of(write("rows.csv", line + "\n" + as_csv(KITES, ";", "\n", csv.QUOTE_MINIMAL))) == KITES
    )


def test_rows_of_the_same_fault_are_told_together(write):
    found = read(write("rows.csv", "text,label\n" + "a,up\n" * 30 + "a,b,c\n" * 9))
    list(found.rows)
    assert found.faults == [
        "rows.csv:32, rows.csv:33, rows.csv:34, rows.csv:35, rows.csv:36 and 4 more: 3 cells, the "
        "header has 2"
    ]
