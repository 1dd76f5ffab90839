"""The same rows out of every layout that tools and spreadsheets write."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from datetime import date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from rung.data import DataKnobs, load
from rung.data.format_strings import Missing, written
from rung.data.json_rows import HOLDERS
from rung.data.sources import read
from rung.errors import DataError

SLOW = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Every separator that Unicode knows, and what CSV, JSON and format strings treat specially.
ODD = list("\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x1f\x00\ufeff,;\t|\"'{}[]\\ \n")
texts = st.text(st.one_of(st.sampled_from("abcdef "), st.sampled_from(ODD)), min_size=1, max_size=12)
columns = st.lists(
    st.text(st.characters(categories=["L"]), min_size=1, max_size=8).filter(lambda c: c.isalpha()),
    min_size=2, max_size=4, unique=True,
)  # fmt: skip


@st.composite
def tables(draw, cells=texts):
    # A column of the name of a part, such as "train", could be the part itself.
    names = draw(columns.filter(lambda found: not {*HOLDERS} & {*found}))
    count = draw(st.integers(2, 6))
    return [{name: draw(cells) for name in names} for _ in range(count)]


JSON_LAYOUTS = {
    "list": json.dumps,
    "indented list": lambda rows: json.dumps(rows, indent=2),
    "lines": lambda rows: "\n".join(json.dumps(r, ensure_ascii=False) for r in rows),
    "lines and commas": lambda rows: ",\r\n".join(json.dumps(r) for r in rows) + ",\n",
    "a list of lines": lambda rows: "[" + ",\n".join(json.dumps(r) for r in rows) + "]",
    "pretty objects": lambda rows: "\n".join(json.dumps(r, indent=4) for r in rows),
    "on one line": lambda rows: " ".join(json.dumps(r) for r in rows),
    "held": lambda rows: json.dumps({"version": 1, "data": rows}),
    "columns": lambda rows: json.dumps({c: [r[c] for r in rows] for c in rows[0]}),
    "columns by index": lambda rows: json.dumps(
        {c: {str(i): r[c] for i, r in enumerate(rows)} for c in rows[0]}
    ),
    "by index": lambda rows: json.dumps({str(i): r for i, r in enumerate(rows)}),
    "split": lambda rows: json.dumps(
        {"columns": list(rows[0]), "index": list(range(len(rows))),
         "data": [list(r.values()) for r in rows]}
    ),
    "held twice": lambda rows: json.dumps({"version": 1, "data": {"rows": rows}}),
    "a list that ends with a comma": lambda rows: (
        "[\n" + "".join(json.dumps(r) + ",\n" for r in rows) + "]"
    ),
    "lines of the datasets server": lambda rows: "\n".join(
        json.dumps({"row_idx": i, "row": r, "truncated_cells": []}) for i, r in enumerate(rows)
    ),
    "datasets server": lambda rows: json.dumps(
        {"features": [],
         "rows": [{"row_idx": i, "row": r, "truncated_cells": []} for i, r in enumerate(rows)]}
    ),
}  # fmt: skip


def rows_of(path: str) -> list[dict[str, object]]:
    found = read(path)
    rows = [dict(row) for _, row in found.rows]
    assert found.faults == []
    return rows


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("layout", JSON_LAYOUTS)
@SLOW
@given(rows=tables(st.one_of(texts, st.integers(), st.booleans(), st.none(), st.floats(-9, 9))))
def test_json_in_every_layout(write, layout, suffix, rows):
    assert rows_of(write(f"rows.{suffix}", JSON_LAYOUTS[layout](rows))) == rows


CELLS = [["text", "label"], ["a kite", "up"], ["a stone", "down"]]
TABLE = [{"text": "a kite", "label": "up"}, {"text": "a stone", "label": "down"}]
ASKED = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_lists_of_cells_have_the_names_of_the_first_or_numbers(write, suffix):
    written_out = json.dumps if suffix == "json" else lambda v: "\n".join(map(json.dumps, v))
    assert rows_of(write(f"rows.{suffix}", written_out(CELLS))) == TABLE
    numbered = [dict(zip(("column 1", "column 2"), cells, strict=True)) for cells in CELLS[1:]]
    assert rows_of(write(f"rows.{suffix}", written_out(CELLS[1:]))) == numbered
    assert rows_of(write(f"rows.{suffix}", written_out([ASKED] * 2))) == [{"messages": ASKED}] * 2


def test_rows_under_names_of_their_own(write):
    assert rows_of(write("rows.json", json.dumps({"k1": TABLE[0], "k2": TABLE[1]}))) == TABLE


def test_a_cell_that_a_column_by_index_leaves_out_is_empty(write):
    whole = {"text": {"0": "a", "1": "b"}, "label": {"1": "x"}}
    assert rows_of(write("rows.json", json.dumps(whole))) == [
        {"text": "a", "label": None}, {"text": "b", "label": "x"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (json.dumps({"text": ["a", "b", "c"], "label": ["x", "y"]}), "'text' 3, 'label' 2"),
        (json.dumps({"validation": TABLE, "test": TABLE}), "under validation and test"),
        ("[" + ",\n".join(map(json.dumps, TABLE)), "never closed"),
        ('{"text": "a", "text": "b"}\n' * 2, "rows.json:1: the key 'text' stands twice"),
        ('{"text": "a"}\n{"text": ' + "9" * 5000 + "}\n", "rows.json:2: a number has too many digits"),
        (json.dumps([{"text": "a"}])[:-1] + ', {"text": 1, "text": 2}]', "'text' stands twice"),
    ],
)
def test_json_that_would_lose_something_is_told(write, text, told):
    found = read(write("rows.json", text))
    list(found.rows)
    assert len(found.faults) in (1, 2) and re.search(told, found.faults[0]), found.faults


def test_a_lone_example_is_no_table(write):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert rows_of(write("one.json", json.dumps({"messages": turns}))) == [{"messages": turns}]
    both = {"messages": turns, "tools": [{"name": "f"}, {"name": "g"}]}
    assert rows_of(write("one.json", json.dumps(both))) == [both]


def test_rows_beside_those_that_are_read_are_told(write):
    rows = [{"prompt": "q", "completion": "a"}]
    path = write("both.json", json.dumps({"train": rows, "test": rows}))
    assert any("also holds test" in p.message for p in load(DataKnobs(data=path)).problems)


def test_a_fault_in_pretty_objects_is_told_once_with_its_line(write):
    text = json.dumps({"text": "a"}, indent=2) + "\n{\n  'text': 3\n}\n"
    with pytest.raises(DataError, match=r"rows\.jsonl:5: not JSON") as told:
        load(DataKnobs(data=write("rows.jsonl", text)))
    assert str(told.value).count("not JSON") == 1


def test_one_bad_line_of_many_is_told_with_its_number(write):
    text = '{"text": "a"}\n{"text": "b"\n{"text": "c"}\n'
    with pytest.raises(DataError, match=r"rows\.jsonl:2: not JSON"):
        load(DataKnobs(data=write("rows.jsonl", text)))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_nan_is_no_class(write, name):
    text = "\n".join(f'{{"text": "t{i}", "label": {"NaN" if i % 3 else i}}}' for i in range(9))
    with pytest.raises(DataError, match="no label"):
        load(DataKnobs(data=write(name, text)))
    kept = load(DataKnobs(data=write(name, text), where=["label!="]))
    assert kept.labels == ("0", "3", "6")


# -- CSV ---------------------------------------------------------------------------------------------


def as_csv(rows, separator=",", end="\n", quoting=csv.QUOTE_MINIMAL) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return out.getvalue()


def test_a_quoted_cell_may_end_its_line_before_a_tab(write):
    rows = [{"A": ";", "AA": ";"}, {"A": ";", "AA": ";\n\t"}]
    assert rows_of(write("rows.csv", as_csv(rows, "\t", "\n", csv.QUOTE_ALL).encode())) == rows


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@SLOW
@given(
    rows=tables(texts.filter(lambda t: t.strip() and "\x00" not in t)),
    separator=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    suffix=st.sampled_from(["csv", "tsv"]),
)
def test_csv_in_every_dialect(write, encoding, rows, separator, end, suffix):
    # A name that stands below itself again and again is a label: such a file has no header.
    assume(all(sum(row[name].strip() == name.strip() for row in rows) < 2 for name in rows[0]))
    text = as_csv(rows, separator, end, csv.QUOTE_ALL)
    expected = [{k: v.replace("\r\n", "\n") for k, v in row.items()} for row in rows]
    assert rows_of(write(f"rows.{suffix}", text.encode(encoding))) == expected


BASIC = [{"text": f"parcel {i} came late", "label": "good" if i % 2 else "bad"} for i in range(24)]


@SLOW
@given(between=st.sampled_from("\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"), at=st.integers(0, 23))
@example(between="\x1c", at=3)
def test_separators_within_a_cell_end_no_row(write, between, at):
    rows = [dict(row) for row in BASIC]
    rows[at]["text"] = f"parcel{between}late"
    text = "text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows)
    assert rows_of(write("rows.csv", text)) == rows


PLAIN = as_csv(BASIC)
SPREADSHEETS = {
    "empty columns behind": "\n".join(f"{line},," for line in PLAIN.splitlines()),
    "empty rows below": PLAIN + ",\n,\n",
    "both": "\n".join(f"{line},," for line in [*PLAIN.splitlines(), ",", ","]),
    "one empty cell more in some rows": PLAIN.replace("7 came late,good", "7 came late,good,"),
    "sep=": "sep=;\r\n" + as_csv(BASIC, ";", "\r\n"),
    "a quoted sep": as_csv(BASIC, ";", "\r\n"),
    "old Mac": as_csv(BASIC, end="\r"),
    "no end of the last line": PLAIN.rstrip("\n"),
}


@pytest.mark.parametrize("layout", SPREADSHEETS)
def test_what_spreadsheets_leave_behind(write, layout):
    assert rows_of(write("rows.csv", SPREADSHEETS[layout])) == BASIC


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark(write, encoding):
    assert rows_of(write("rows.csv", PLAIN.encode(encoding))) == BASIC


def test_a_cell_beyond_the_header_is_a_fault(write):
    with pytest.raises(DataError, match=r"rows\.csv:3: 3 cells, the header has 2"):
        load(DataKnobs(data=write("rows.csv", "question,answer\nq,a\nq,a,more\n")))


def test_a_header_with_other_separators_in_its_names(write):
    text = '"a;b;c;d",label\n' + "".join(f'"x{i}; y, z",good\n' for i in range(5))
    assert rows_of(write("rows.csv", text))[0] == {"a;b;c;d": "x0; y, z", "label": "good"}
    tabs = "label\ttext, as it came, word for word\nham\tgo, now, then\nspam\twin, call\n"
    assert list(rows_of(write("rows.tsv", tabs))[0]) == ["label", "text, as it came, word for word"]


MESSAGES = [
    ("ham", "Go now, said he, and bring bread, milk"),
    ("spam", "Win, call now"),
    ("ham", "ok"),
] * 20


def test_a_file_without_a_header_keeps_its_first_row_and_what_is_proposed_works(write):
    text = "".join(f"{a}\t{b} {i}\n" for i, (a, b) in enumerate(MESSAGES))
    path = write("sms.tsv", text)
    assert len(rows_of(path)) == 60
    with pytest.raises(DataError, match="column 1, column 2") as told:
        load(DataKnobs(data=path))
    flags = shlex.split(str(told.value).partition("rung data ")[2])
    dataset = load(DataKnobs(data=path, user=flags[2], assistant=flags[4]))
    assert dataset.examples[0].messages[-1]["content"] == "ham"
    assert any("no header" in p.message for p in dataset.problems)


def test_quotation_marks_in_texts_between_tabs_are_texts(write):
    text = "label\ttext\n" + "".join(f'ham\t"{i} is so far\nspam\twin {i}" now\n' for i in range(30))
    rows = rows_of(write("sms.tsv", text))
    assert len(rows) == 60 and rows[0]["text"] == '"0 is so far'


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "index", "id"])
def test_an_index_is_no_content(write, name):
    rows = [{name: i, "text": f"The kite {i} sails."} for i in range(24)]
    dataset = load(DataKnobs(data=write("rows.csv", as_csv(rows))))
    assert dataset.format == "text"
    assert dataset.examples[3].text == "The kite 3 sails."
    assert any("not read" in p.message for p in dataset.problems)
    many = [{name: i, "text": f"t{i}", "label": "x"} for i in range(24)]
    assert load(DataKnobs(data=write("rows.csv", as_csv(many)))).format == "text/label"


odd_columns = st.lists(
    st.text(st.one_of(st.sampled_from("ab{}[] :'\"$`!"), st.characters(categories=["L"])),
            min_size=1, max_size=6).filter(lambda c: c.strip() == c and c),
    min_size=2, max_size=3, unique=True,
)  # fmt: skip


@SLOW
@given(names=odd_columns)
def test_whatever_is_proposed_reads_the_rows(write, names):
    rows = [{name: f"{name} {i}" for name in names} for i in range(5)]
    path = write("rows.jsonl", "\n".join(json.dumps(r) for r in rows))
    try:
        load(DataKnobs(data=path), wants=None)
    except DataError as fault:
        told = str(fault)
        assert "\n" not in told
        if "rung data" in told:
            flags = shlex.split(told.partition("rung data ")[2])
            given_ = {f.removeprefix("--"): v for f, v in zip(flags[1::2], flags[2::2], strict=True)}
            assert len(load(DataKnobs(data=path, **given_))) == 5


# -- tables ------------------------------------------------------------------------------------------


def put(tmp_path, **columns_) -> str:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns_), path)
    return str(path)


def test_values_of_tables_are_written_plainly(tmp_path):
    import pyarrow as pa

    path = put(
        tmp_path, text=pa.array([b"late", b"early"], pa.binary()), label=pa.array(["a", "b"]),
        day=[date(2024, 1, 2), date(2024, 1, 3)], at=[datetime(2024, 1, 2, 9, 30)] * 2,
        price=[Decimal("0.50"), Decimal("1.50")], took=[timedelta(minutes=3)] * 2,
        many=[[date(2024, 1, 2)]] * 2,
    )  # fmt: skip
    dataset = load(DataKnobs(data=path, user="{day} {at} {took}: {text} {many}", assistant="{price}"))
    assert [m["content"] for m in dataset.examples[0].messages] == [
        '2024-01-02 2024-01-02 09:30:00 0:03:00: late ["2024-01-02"]', "0.50",
    ]  # fmt: skip
    assert load(DataKnobs(data=path)).labels == ("a", "b")


def test_bytes_that_are_no_text_are_told(tmp_path):
    path = put(tmp_path, text=[b"\xff\xfe\x00", b"ok"], label=["a", "b"])
    with pytest.raises(DataError, match="bytes that are no text"):
        load(DataKnobs(data=path))


def test_nan_in_a_table_is_no_class(tmp_path):
    path = put(tmp_path, text=["a", "b", "c"], label=[1.0, float("nan"), 0.0])
    with pytest.raises(DataError, match=r"rows\.parquet:2: no label"):
        load(DataKnobs(data=path))
    assert load(DataKnobs(data=path, where=["label!="])).labels == ("0", "1")


@pytest.mark.parametrize("hub", [False, True])
def test_classes_have_their_names(tmp_path, monkeypatch, hub):
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Sequence as Listed

    features = Features(
        {"text": Value("string"), "label": ClassLabel(names=["bad", "good"]),
         "tags": Listed(ClassLabel(names=["O", "B"]))}
    )  # fmt: skip
    table = {"text": ["a", "b", "c"], "label": [0, 1, 1], "tags": [[0, 1]] * 3}
    folder = tmp_path / "set"
    folder.mkdir()
    Dataset.from_dict(table, features=features).to_parquet(folder / "train.parquet")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    source = f"hf:{folder}" if hub else str(folder / "train.parquet")
    assert load(DataKnobs(data=source)).labels == ("bad", "good")
    tagged = load(DataKnobs(data=source, user="{text}", assistant="{tags}"))
    assert tagged.examples[0].messages[-1]["content"] == '["O", "B"]'


@given(st.one_of(st.dates(), st.datetimes(), st.decimals(allow_nan=False), st.timedeltas(), st.text()))
def test_no_value_is_written_in_quotation_marks(value):
    if isinstance(value, Decimal) and value.is_finite():
        assert Decimal(written(value)) == value
    else:
        assert written(value) == str(value)


@given(st.binary(max_size=8))
def test_bytes_are_their_text(value):
    try:
        expected = value.decode()
    except UnicodeDecodeError:
        with pytest.raises(Missing):
            written(value)
    else:
        assert written(value) == expected
