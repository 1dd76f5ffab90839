"""Tables of Arrow in every type, and compressed files: what was meant, or a word why not."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from decimal import Decimal

import pytest

from rung.data import DataKnobs, load
from rung.data.sources import gz, read
from rung.errors import DataError

TEXTS = [f"kite {i}" for i in range(24)]
LABELS = ["up" if i % 2 else "down" for i in range(24)]
CSV = "text,label\n" + "".join(f"{t},{label}\n" for t, label in zip(TEXTS, LABELS, strict=True))


@pytest.fixture
def pa():
    pytest.importorskip("pyarrow", reason="tables need pyarrow (extra hub)")
    import pyarrow
    import pyarrow.feather
    import pyarrow.parquet

    return pyarrow


def loaded(pa, folder, columns, **knobs):
    path = folder / "rows.parquet"
    pa.parquet.write_table(pa.table(columns), path)
    return load(DataKnobs(data=str(path), **knobs))


@pytest.mark.parametrize(
    "beside",
    [lambda pa: pa.array([[("a", "b")]] * 24, pa.map_(pa.string(), pa.string())),
     lambda pa: pa.array([b"0" * 16] * 24, pa.uuid()), lambda pa: pa.array([[[1]]] * 24)],
)  # fmt: skip
def test_a_column_of_a_rare_type_costs_the_others_nothing(pa, tmp_path, beside):
    found = loaded(pa, tmp_path, {"text": TEXTS, "label": LABELS, "beside": beside(pa)})
    assert found.labels == ("down", "up") and len(found) == 24
    assert any("beside (24 rows)" in p.message for p in found.problems)


def test_numbers_are_written_as_they_were(pa, tmp_path):
    columns = {
        "text": TEXTS,
        "single": pa.array([0.1] * 24, pa.float32()),
        "half": pa.array([0.5] * 24, pa.float16()),
        "small": pa.array([Decimal("0.00000001")] * 24, pa.decimal128(20, 10)),
        "large": pa.array([2**63 + 1] * 24, pa.uint64()),
    }
    found = loaded(pa, tmp_path, columns, user="{text}", assistant="{single} {half} {small} {large}")
    said = found.examples[0].messages[-1]["content"]
    assert said == "0.1 0.5 0.0000000100 9223372036854775809"


def test_a_table_without_rows_and_one_with_a_name_twice(pa, tmp_path):
    with pytest.raises(DataError, match="holds no rows"):
        loaded(pa, tmp_path, {"text": pa.array([], pa.string())})
    path = tmp_path / "twice.arrow"
    batch = pa.record_batch([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_file(out, batch.schema) as file:
        file.write(batch)
    with pytest.raises(DataError, match="several columns named text"):
        load(DataKnobs(data=str(path)))


def test_arrow_as_file_stream_and_feather(pa, tmp_path):
    table = pa.table({"text": TEXTS, "label": pa.array(LABELS).dictionary_encode()})
    pa.feather.write_feather(table, tmp_path / "rows.feather")
    for name, make in (("file", pa.ipc.new_file), ("stream", pa.ipc.new_stream)):
        with pa.OSFile(str(tmp_path / f"{name}.arrow"), "wb") as out, make(out, table.schema) as file:
            file.write_table(table)
    for name in ("rows.feather", "file.arrow", "stream.arrow"):
        assert load(DataKnobs(data=str(tmp_path / name))).labels == ("down", "up")
    (tmp_path / "bad.arrow").write_bytes(b"no table")
    with pytest.raises(DataError, match="bad.arrow: cannot be read as Arrow"):
        load(DataKnobs(data=str(tmp_path / "bad.arrow")))


@pytest.mark.parametrize(("end", "pack"), [("gz", gzip), ("bz2", bz2), ("xz", lzma)])
def test_compressed_files_are_what_is_in_them(write, end, pack):
    lines = "".join(
        json.dumps({"text": t, "label": one}) + "\n" for t, one in zip(TEXTS, LABELS, strict=True)
    )
    for name, text in (("rows.csv", CSV), ("rows.jsonl", lines)):
        found = load(DataKnobs(data=write(f"{name}.{end}", pack.compress(text.encode()))))
        assert found.labels == ("down", "up") and found.examples[0].origin.startswith(name)


@pytest.mark.parametrize(
    ("name", "held", "told"),
    [("rows.csv.gz", b"no gzip", "cannot be unpacked"),
     ("rows.gz", gzip.compress(b"x"), "no known kind"),
     ("rows.csv.gz", gzip.compress(CSV.encode())[:-12], "cannot be unpacked"),
     ("rows.gz.gz", gzip.compress(b"x"), "no known kind")],
    ids=["other bytes", "no kind", "cut", "twice"],  # the bytes hold the time
)  # fmt: skip
def test_what_is_not_whole_is_told(write, name, held, told):
    with pytest.raises(DataError, match=told):
        load(DataKnobs(data=write(name, held)))


def test_what_unpacks_without_end_is_refused(write, monkeypatch):
    monkeypatch.setattr(gz, "MAX_UNPACKED_BYTES", 1 << 20)
    found = read(write("rows.txt.gz", gzip.compress(b"a" * (3 << 20))))
    assert list(found.rows) == [] and "holds more than" in found.faults[0]
