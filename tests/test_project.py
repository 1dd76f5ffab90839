"""The house rules that no linter knows: light imports, small files, methods apart."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.circles import circles

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rung"
SOURCES = sorted(PACKAGE.rglob("*.py"))

HEAVY = ("torch", "transformers", "datasets", "sqlalchemy")
LIGHT = [
    "rung", "rung.config", "rung.cli", "rung.data", "rung.bases", "rung.store", "rung.artefacts",
    "rung.methods", "rung.objectives", "rung.registry",
]  # fmt: skip
MOST_LINES = 400


def _names_of(kind: str) -> set[str]:
    """What a folder of methods, objectives or the like holds: files and packages that are entries."""
    return set(importlib.import_module(f"rung.{kind}").names())


def _compared_strings(tree: ast.AST) -> set[tuple[int, str]]:
    """(line, text) of string literals on either side of a comparison, or in a `case` pattern."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        else:
            continue
        for side in sides:
            # The items of a literal container count: `name in ("lora", "full")`.
            items = side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side]
            found |= {
                (item.lineno, item.value)
                for item in items
                if isinstance(item, ast.Constant) and isinstance(item.value, str)
            }
    return found


@pytest.mark.parametrize("module", LIGHT)
def test_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"import {module} brings in {done.stdout}"


def test_method_files_import_lightly() -> None:
    names = sorted(_names_of("methods"))
    imports = "; ".join(f"import rung.methods.{name}" for name in names)
    code = f"import sys; {imports}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("kind", ["methods", "objectives"])
def test_no_code_compares_against_the_name_of_a(kind) -> None:
    names = _names_of(kind)
    faults = [
        f"{path.relative_to(ROOT)}:{line} compares against '{text}'"
        for path in SOURCES
        if kind not in path.relative_to(PACKAGE).parts
        for line, text in sorted(_compared_strings(ast.parse(path.read_text())))
        if text in names
    ]
    assert not faults, "\n".join(faults)


def test_a_circle_of_imports_is_found() -> None:
    imports = {"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": [], "e": ["d"]}
    assert circles(imports, imports.__getitem__) == [["a", "b", "c"]]


def test_files_stay_small() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in [*SOURCES, *sorted((ROOT / "bench").glob("*.py"))]
        if (lines := len(path.read_text().splitlines())) > MOST_LINES
    }
    assert not long, f"over {MOST_LINES} lines: {long}"


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._]+", line) for line in pins), pins
    pinned = {_canonical(line.split("==")[0]) for line in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    names = {_canonical(re.split(r"[\[<>=!~; ]", line)[0]) for line in wanted}
    assert names <= pinned, f"not in constraints.txt: {sorted(names - pinned)}"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
