"""Folders that the `datasets` library saved: their splits, the names of classes, and damage."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from rung.data import DataKnobs, load
from rung.errors import DataError

datasets = pytest.importorskip("datasets", reason="saved folders need datasets (extra hub)")

ROWS = 24
SHARD = "data-00000-of-00001.arrow"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with `one`, a data set, and `two`, which has the splits train and test."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["low", "high"])}
    )
    held = {"text": [f"water {i}" for i in range(ROWS)], "label": [i % 2 for i in range(ROWS)]}
    table = datasets.Dataset.from_dict(held, features=features)
    root = tmp_path_factory.mktemp("saved")
    datasets.disable_progress_bars()
    table.with_format("numpy", columns=["label"]).save_to_disk(str(root / "one"), num_shards=2)
    splits = {"train": table, "test": table.select(range(4))}
    datasets.DatasetDict(splits).save_to_disk(str(root / "two"))
    datasets.DatasetDict(low=table, high=table).save_to_disk(str(root / "unnamed"))
    return root


def read(path: object, **knobs):
    return load(DataKnobs(data=str(path), **knobs))


def test_a_saved_data_set_is_its_rows_with_the_names_of_classes(made):
    found = read(made / "one")
    assert [e.messages[0]["content"] for e in found.examples] == [f"water {i}" for i in range(ROWS)]
    assert [e.label for e in found.examples] == ["low", "high"] * (ROWS // 2)
    assert found.examples[0].origin == "one:1"
    assert not found.problems


def test_of_splits_train_is_read_or_the_one_that_is_named(made):
    found = read(made / "two")
    assert len(found) == ROWS and found.examples[0].origin == "two/train:1"
    assert any("two:test" in p.message for p in found.problems)
    for name in (f"{made}/two:test", made / "two" / "test"):
        assert len(read(name)) == 4
    both = read(made / "two", test_data=f"{made}/two:test")
    assert len(both) == ROWS and len(both.test) == 4


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("two:dev", "no split 'dev': it holds test, train"),
        ("one:train", "holds one data set and no splits"),
        ("unnamed", "holds the splits low, high: name the one to read, such as .*unnamed:low"),
    ],
)
def test_a_split_that_is_not_there_is_told_with_those_that_are(made, name, told):
    with pytest.raises(DataError, match=told):
        read(made / name)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def garble(path: Path) -> None:
    path.write_bytes(b"x" * 64 + path.read_bytes()[64:])


def unknown_column(path: Path) -> None:
    path.write_text(json.dumps({"features": {"a": {"_type": "x"}}}))


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("state.json", Path.unlink, "state.json is missing or damaged"),
        ("state.json", lambda path: path.write_text("{"), "state.json is missing or damaged"),
        ("dataset_info.json", Path.unlink, "dataset_info.json is missing or damaged"),
        (SHARD, Path.unlink, f"{SHARD} is missing"),
        (SHARD, cut, f"{SHARD} is cut short"),
        (SHARD, garble, "train: cannot be read as saved by datasets"),
        ("dataset_info.json", unknown_column,
         "cannot be read as saved by datasets"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_one_line(made, tmp_path, name, damage, told):
    shutil.copytree(made / "two", tmp_path / "cut")
    damage(tmp_path / "cut" / "train" / name)
    with pytest.raises(DataError, match=told) as refused:
        read(tmp_path / "cut")
    assert "\n" not in str(refused.value)


def test_a_folder_without_one_of_its_splits(made, tmp_path):
    shutil.copytree(made / "two", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "train")
    with pytest.raises(DataError, match="'.*train' is not there"):
        read(tmp_path / "cut")
    assert len(read(f"{tmp_path}/cut:test")) == 4


@pytest.mark.parametrize("name", ["../two/train", "/train", "", 3])
def test_a_split_is_no_place_elsewhere(made, tmp_path, name):
    shutil.copytree(made / "two", tmp_path / "odd")
    (tmp_path / "odd" / "dataset_dict.json").write_text(json.dumps({"splits": [name]}))
    found = read(tmp_path / "odd")
    assert len(found) == ROWS and found.examples[0].origin == "odd/train:1"


def test_a_data_set_saved_without_rows_is_told_as_one(tmp_path):
    datasets.Dataset.from_dict({"a": []}).save_to_disk(str(tmp_path / "none"))
    with pytest.raises(DataError, match="no rows"):
        read(tmp_path / "none")


def test_saved_pictures_and_folders_of_pictures_are_both_read(tmp_path):
    pillow = pytest.importorskip("PIL.Image", reason="pictures need Pillow (extra pictures)")
    held = []
    for i in range(2):
        buffer = io.BytesIO()
        pillow.new("RGB", (8, 8), (90 * i, 40, 200)).save(buffer, "PNG")
        held.append({"path": None, "bytes": buffer.getvalue()})
        folder = tmp_path / "photos" / f"label{i}"
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(buffer.getvalue())
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    table = datasets.Dataset.from_dict(
        {"image": held, "label": ["label0", "label1"]}, features=features
    )
    table.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "photos" / "state.json").write_text("{}")
    found = [read(tmp_path / name) for name in ("saved", "photos")]
    digests = [[e.messages[0]["pictures"] for e in one.examples] for one in found]
    assert digests[0] == digests[1] and len(digests[0]) == 2
