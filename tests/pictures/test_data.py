"""Pictures as data: folders, archives, tables; what is told of bad ones; splits by content."""

from __future__ import annotations

import csv
import json
import zipfile

import pytest

from rung.data import DataKnobs, load, split
from rung.errors import DataError
from rung.evals import tasks
from tests.pictures.conftest import as_bytes, drawn

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30)}


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures in a folder for each of two labels."""
    root = tmp_path / "photos"
    for label, colour in COLOURS.items():
        (root / label).mkdir(parents=True)
        for i in range(6):
            (root / label / f"{i}.png").write_bytes(as_bytes(drawn(colour, seed=i)))
    return root


def read(source, **settings):
    return load(DataKnobs(data=str(source), **settings))


def labels(dataset):
    return sorted(e.label for e in dataset.examples)


def test_a_folder_for_each_label(folder):
    found = read(folder)
    assert labels(found) == ["green"] * 6 + ["red"] * 6
    assert found.examples[0].origin == "green/0.png"
    task = tasks.detect(found.examples)
    assert task.pictures and task.labels == ("green", "red")


def test_the_same_pictures_are_the_same_data_wherever_they_lie(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, f"photos/{file.relative_to(folder)}")
        archive.writestr("__MACOSX/photos/red/._0.png", b"x")
    assert read(folder).digest == read(tmp_path / "photos.zip").digest


@pytest.mark.parametrize("column", ["image", "file_name", "path"])
def test_a_table_with_a_column_of_paths_beside_it(column, folder, tmp_path):
    rows = [{column: f"photos/{p.parent.name}/{p.name}", "label": p.parent.name}
            for p in sorted(folder.rglob("*.png"))]  # fmt: skip
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert (
        labels(read(tmp_path / "t.csv")) == labels(read(tmp_path / "t.jsonl")) == labels(read(folder))
    )


def test_parquet_with_bytes_as_the_hub_has_them(folder, tmp_path):
    datasets = pytest.importorskip("datasets", reason="parquet needs datasets (extra hub)")
    files = sorted(folder.rglob("*.png"))
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["green", "red"])
    )
    cells = {"image": [{"bytes": f.read_bytes(), "path": None} for f in files],
             "label": [f.parent.name for f in files]}  # fmt: skip
    datasets.Dataset.from_dict(cells, features).to_parquet(tmp_path / "t.parquet")
    assert {e.digest for e in read(tmp_path / "t.parquet").examples} == {
        e.digest for e in read(folder).examples
    }


def test_a_caption_is_a_reply_and_no_label(folder, tmp_path):
    (tmp_path / "t.jsonl").write_text(
        "\n".join(json.dumps({"image": str(p), "caption": f"it is {p.parent.name} {p.stem}"})
                  for p in sorted(folder.rglob("*.png")))
    )  # fmt: skip
    found = read(tmp_path / "t.jsonl", user="What is it?", assistant="{caption}")
    assert found.labels == ()
    asked, reply = found.examples[0].messages
    assert asked["content"] == "What is it?" and reply["content"] == "it is green 0"
    assert len(asked["pictures"][0]) == 64


def test_a_label_alone_is_a_mapping(folder, tmp_path):
    rows = [{"image": str(p), "kind": p.parent.name} for p in sorted(folder.rglob("*.png"))]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert labels(read(tmp_path / "t.jsonl", label="{kind}")) == labels(read(folder))
    with pytest.raises(DataError, match="--label"):
        read(tmp_path / "t.jsonl")


def test_every_bad_picture_is_named_and_why(folder):
    (folder / "red" / "empty.jpg").write_bytes(b"")
    (folder / "red" / "cut.png").write_bytes((folder / "red" / "0.png").read_bytes()[:300])
    (folder / "green" / "text.png").write_text("no picture")
    with pytest.raises(DataError) as fault:
        read(folder)
    for told in ("red/empty.jpg: the file is empty (0 bytes)", "red/cut.png: the picture is cut short",
                 "green/text.png: is no picture that can be read"):  # fmt: skip
        assert told in str(fault.value)
    assert "\n" not in str(fault.value)


def test_what_is_left_out_or_odd_is_told(folder):
    (folder / "notes.txt").write_text("x")
    (folder / "alone.png").write_bytes(as_bytes(drawn((1, 1, 1))))
    (folder / "red" / "is-png.jpg").write_bytes(as_bytes(drawn((99, 1, 1))))
    told = " ".join(p.message for p in read(folder).problems)
    assert "1 file is no picture by name: left out (notes.txt)" in told
    assert "1 picture lies in no folder of a label: left out (alone.png)" in told
    assert "red/is-png.jpg: is a PNG in spite of its name" in told


def test_equal_pictures_under_other_names_fall_into_one_part(folder):
    for i in range(6):
        (folder / "red" / f"copy{i}.png").write_bytes((folder / "red" / f"{i}.png").read_bytes())
    dataset = read(folder)
    assert dataset.duplicates.count == 6
    parts = split(dataset, DataKnobs(data="x", validation=0.3, test=0.3))
    where: dict[str, set[str]] = {}
    for name, examples in parts:
        for example in examples:
            where.setdefault(example.messages[0]["pictures"][0], set()).add(name)
    assert len(where) == 12 and all(len(names) == 1 for names in where.values())


def test_one_picture_with_two_labels_is_told(folder):
    (folder / "red" / "also.png").write_bytes((folder / "green" / "1.png").read_bytes())
    dataset = read(folder)
    problems = split(dataset, DataKnobs(data="x")).problems
    assert any("green/1.png" in p.message and "red/also.png" in p.message for p in problems)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a.txt"], "holds no pictures"),
        (["a.png"], "pictures without labels"),
        (["train/x/a.png", "test/x/a.png"], "holds parts, not labels"),
    ],
)
def test_a_folder_of_another_layout_says_what_to_do(names, told, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(as_bytes(drawn((1, 2, 3))))
    with pytest.raises(DataError, match=told):
        read(tmp_path)


def test_nothing_is_fetched(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": "https://example.org/a.png", "label": "x"}))
    with pytest.raises(DataError, match="nothing is fetched"):
        read(tmp_path / "t.jsonl")
