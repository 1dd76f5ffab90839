"""What other packages add: a sample package is installed, and every part of it is used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT, _prepare

SAMPLE = ROOT / "tests" / "fixtures" / "sample_package"
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SCRATCH = "scratch:layers=2,width=32,heads=2,vocab=300,context=256"
BLOCK = re.compile(r"^```python (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def groups() -> dict[str, dict[str, str]]:
    project = tomllib.loads((SAMPLE / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"]["entry-points"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The sample package as pip installs it, in a folder of its own."""
    copied = tmp_path_factory.mktemp("source") / "sample"  # pip leaves a build folder where it builds
    subprocess.run(["cp", "-r", str(SAMPLE), str(copied)], check=True)
    target = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", *options, str(copied)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def studio(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("extending")
    _prepare(folder / "home")
    rows = [{"prompt": f"Coach me, {i}.", "completion": f"Try {i} times!"} for i in range(30)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "notes.md").write_text("# Dough\nFlour, water.\n# Rest\n\nWait a day.\n")
    return folder


def python(code: str, installed: Path | None, studio: Path) -> str:
    """What a program prints in a process that finds the package (or, with None, does not)."""
    paths = [str(ROOT), *([str(installed)] if installed else [])]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "RUNG_HOME": str(studio / "home"),
        "COLUMNS": "200",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=studio
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_shows_every_part_of_the_sample_as_it_is():
    shown = dict(BLOCK.findall(PAGE))
    files = {p.name: p for p in (SAMPLE / "rung_sample").glob("*.py") if p.name != "__init__.py"}
    assert set(shown) == {f"rung_sample/{name}" for name in files}
    for name, path in files.items():
        assert shown[f"rung_sample/{name}"] == path.read_text(encoding="utf-8"), name
    modules = {
        module.rpartition(".")[2] for entries in groups().values() for module in entries.values()
    }
    assert modules == {Path(name).stem for name in files}


def test_every_registry_of_the_package_is_on_the_page_and_in_the_sample():
    code = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "rung").rglob("*.py"))
    registries = re.findall(r"= Registry\(\s*\"([\w.]+)\"[^)]*?(?:group=\"([\w.]+)\")?,?\s*\)", code)
    known = {group or package for package, group in registries}
    assert known == set(groups()), "a kind has no example in tests/fixtures/sample_package"
    for group in known:
        assert f"`{group}`" in PAGE, group


def test_nothing_of_it_is_there_before_it_is_installed(studio):
    code = "from rung import exports, methods; print(exports.names(), methods.names())"
    assert "noted" not in python(code, None, studio)


def test_what_it_adds_is_listed_with_the_rest(installed, studio):
    code = "from rung.cli import run; run(['{}', '--help{}'])"
    shown = " ".join(python(code.format("export", ""), installed, studio).replace("│", " ").split())
    assert "noted: the merged model with a note" in shown
    assert "--start-at" in python(code.format("tune", "-all"), installed, studio)


def test_every_part_of_it_does_its_work(installed, studio):
    code = f"""
import json, rung
rung.tune("plain", "rows.jsonl", base="{SCRATCH}", device="cpu", dtype="float32", steps=2,
          method="norms", norms={{"start_at": 1.5}}, objective="even", track=["lines"],
          launch="polite")
from rung.data import load
from rung.data.knobs import DataKnobs
print([e.messages[-1]["content"] for e in load(DataKnobs(data="notes.md")).examples])
from rung.evals.tasks import detect, reason
from rung.types import Example
asked = [Example(({{"role": "user", "content": f"Summarise day {{i}}."}},
                  {{"role": "assistant", "content": f"It was the day {{i}}."}})) for i in range(9)]
print(detect(asked), "-", reason(detect(asked), asked))
found = rung.evaluate("plain", data="rows.jsonl", metric="length_ratio", items=2, device="cpu")
print(0 <= found["plain"].value <= 1, found["plain"].n)
found = rung.evaluate("plain", data="rows.jsonl", items=2, reward=["questions", "regex:."])
print(0 <= found["plain"].value <= 2, found["plain"].metric)
print(rung.export("plain", "out", to="noted").difference < 1e-3, open("out/NOTE.txt").read().strip())
from rung.redteam import judges, transforms
from rung.redteam.judges.base import Judged
longer = judges.get("longer").configured("longer:1", "1", None)
print(transforms.get("shout").turns("ask"), longer.scores([Judged("", "a b"), Judged("", "a")]))
from rung.synthesis import kinds
from rung.synthesis.kinds.base import Draft
print(kinds.get("titles").row(Draft(index=0, topic="x", fields=dict(title="On x"))))
with open("ours.csv", "w") as ours, open("theirs.csv", "w") as theirs:
    ours.write("id,name\\n1,invoice_total\\n2,city\\n")
    theirs.write("id,name\\na,Illegible Text\\nb,Customer\\n")
mapped = rung.map_records("ours.csv", "theirs.csv", only=["initials"])
print([(row.left, row.right) for row in mapped.rows], mapped.outcome.winner.name)
from fastapi.testclient import TestClient
from rung.models import load_engine
from rung.server.app import create_app
with TestClient(create_app(load_engine(["plain"]))) as client:
    print(json.dumps(client.get("/v1/names").json()))
"""
    said = python(code, installed, studio).splitlines()
    read, task, measured, rewarded, exported, attacked, written, mapped, names = said
    assert read == "['Flour, water.', 'Wait a day.']"
    assert task.startswith("Task(kind='summary', metric='rouge_2'") and "ask for a summary" in task
    assert measured == "True 2" and rewarded == "True reward"
    assert exported.startswith("True Made by norms on scratch")
    assert attacked == "('ASK',) [1.0, 0.0]" and written == "{'text': 'On x'}"
    assert mapped == "[('1', 'a'), ('2', 'b')] initials"
    assert "plain" in json.loads(names) and len(json.loads(names)) == 2
    (lines,) = (studio / "home" / "runs").glob("*/lines.txt")
    assert re.search(r"step 2: .*loss [\d.]+", lines.read_text()), lines.read_text()
    assert lines.read_text().endswith("succeeded\n")
