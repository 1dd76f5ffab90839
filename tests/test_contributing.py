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


def test_there_is_an_example_of_each_kind_and_a_test_of_each_example():
    folders = {str(Path(name).parent) for name in PARTS}
    kinds = {"objectives", "trackers", "rewards", "exports", "server/routes"}
    assert {f"rung/{kind}" for kind in kinds} <= folders
    tested = {Path(name).stem.removeprefix("test_") for name in BLOCKS if name.startswith("tests/")}
    assert tested == {Path(name).stem for name in PARTS}
    for name in BLOCKS:
        assert not (ROOT / name).exists(), f"{name} is there already: choose another example"


@pytest.mark.parametrize("part", PARTS)
def test_an_example_passes_its_test(part: str, tmp_path: Path):
    """The file is a package of its own with an entry point, so that the repository stays as it is."""
    stem, folder = Path(part).stem, str(Path(part).parent)
    (example,) = [name for name in BLOCKS if Path(name).name == f"test_{stem}.py"]
    package = tmp_path / "site"
    info = package / "contributed-1.0.dist-info"
    info.mkdir(parents=True)
    (package / f"contributed_{stem}.py").write_text(BLOCKS[part], encoding="utf-8")
    group = GROUPS.get(folder, folder.replace("/", "."))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: contributed\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{stem} = contributed_{stem}\n")
    beside = str(Path(example).parent / "conftest.py")
    fixtures = ["tests/conftest.py", *([beside] if (ROOT / beside).exists() else [])]
    imports = [f"from {name[:-3].replace('/', '.')} import *\n" for name in fixtures]
    (tmp_path / "conftest.py").write_text("".join(imports))
    test = tmp_path / Path(example).name
    test.write_text(BLOCKS[example], encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), str(ROOT)])}
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(test)]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=env, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


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
