"""The worked examples of CONTRIBUTING: each file works and passes its test, as a part of Rung would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

BLOCK = re.compile(r"^```python ((?:rung|tests)/\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = dict(BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
GROUPS = {"rung/server/routes": "rung.routes"}  # folders whose group has another name
PARTS = [name for name in BLOCKS if name.startswith("rung/")]
TESTS = [name for name in BLOCKS if name.startswith("tests/")]


def test_there_is_an_example_of_each_kind_and_a_test_of_each_example():
    folders = {str(Path(name).parent) for name in PARTS}
    kinds = {"objectives", "trackers", "rewards", "exports", "server/routes"}
    assert {f"rung/{kind}" for kind in kinds} <= folders
    tested = {Path(name).stem.removeprefix("test_") for name in BLOCKS if name.startswith("tests/")}
    assert tested == {Path(name).stem for name in PARTS}
    for name in BLOCKS:
        assert not (ROOT / name).exists(), f"{name} is there already: choose another example"


def test_each_example_passes_its_test(tmp_path: Path):
    """The files are a package of their own with entry points, so that the repository stays as it is.

    One pytest runs the tests of all: each folder with the fixtures that it would have here.
    """
    package = tmp_path / "site"
    info = package / "contributed-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: contributed\nVersion: 1.0\n")
    groups: dict[str, list[str]] = {}
    for part in PARTS:
        stem, folder = Path(part).stem, str(Path(part).parent)
        (package / f"contributed_{stem}.py").write_text(BLOCKS[part], encoding="utf-8")
        group = GROUPS.get(folder, folder.replace("/", "."))
        groups.setdefault(group, []).append(f"{stem} = contributed_{stem}\n")
    points = [f"[{group}]\n{''.join(lines)}" for group, lines in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(points))
    _with_fixtures(tmp_path, "tests")
    for example in TESTS:
        beside = tmp_path / Path(example).relative_to("tests")
        beside.parent.mkdir(exist_ok=True)
        beside.write_text(BLOCKS[example], encoding="utf-8")
        _with_fixtures(beside.parent, str(Path(example).parent))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), str(ROOT)])}
    command = ["-m", "pytest", "-v", "-p", "no:cacheprovider", "--import-mode", "importlib"]
    done = subprocess.run(
        [sys.executable, *command, "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True, text=True, env=env, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for example in TESTS:
        assert re.search(rf"{Path(example).name}::\S+ PASSED", done.stdout), done.stdout


def _with_fixtures(folder: Path, of: str) -> None:
    """Give a folder of tests what the conftest.py of one here gives."""
    if (ROOT / of / "conftest.py").exists():
        (folder / "conftest.py").write_text(f"from {of.replace('/', '.')}.conftest import *\n")


@pytest.mark.parametrize("name", BLOCKS)
def test_an_example_is_in_the_projects_style(name: str, tmp_path: Path):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(BLOCKS[name], encoding="utf-8")
    for command in (["check"], ["format", "--check"]):
        style = ["--config", str(ROOT / "pyproject.toml"), str(path)]
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *style], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
