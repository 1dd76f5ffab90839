"""`import rung`: light, typed, and each function does what the verb of its name does."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rung
from rung.cli import VERBS
from tests.conftest import ROOT, _prepare

SCRATCH = "scratch:layers=2,width=32,heads=2,vocab=300,context=256"
ROWS = [{"prompt": f"Coach me, {i}.", "completion": f"Try {i} times!"} for i in range(30)]
FAST = {"base": SCRATCH, "dtype": "float32", "device": "cpu", "steps": 1}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """A home with a model that was tuned from Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_HOME", str(_prepare(tmp_path_factory.mktemp("library") / "home")))
        yield rung.tune("coach", ROWS, **FAST)


def test_importing_it_brings_nothing_heavy():
    code = (
        "import sys, rung; rung.tune, rung.climb, rung.RungError; "
        "print([m for m in ('torch', 'transformers', 'sqlalchemy', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_name_is_there_and_documented():
    assert set(rung.__all__) <= set(dir(rung))
    page = (ROOT / "docs" / "python.md").read_text()
    for name in rung.__all__:
        assert getattr(rung, name) is not None
        assert f"`rung.{name}" in page, name
    with pytest.raises(AttributeError, match="no attribute 'tunes'"):
        rung.tunes  # noqa: B018
    for verb in ("climb", "compare", "export", "plan", "tune"):
        assert verb in VERBS and callable(getattr(rung, verb))


def test_a_tuning_from_rows_keeps_them_and_tells_what_it_cost(studio):
    assert studio.model.name == "coach" and studio.cost["seconds"] > 0
    run = rung.Store.open().runs.list(model="coach")[0]
    kept = [json.loads(line) for line in Path(run.config["data"]).read_text().splitlines()]
    assert kept == ROWS and run.config["steps"] == 1


def test_a_model_answers_and_streams_the_same(studio):
    with rung.load("coach", dtype="float32", device="cpu") as coach:
        said = coach.ask("Coach me, 3.", max_tokens=5)
        assert isinstance(coach, rung.Model) and isinstance(coach.engine, rung.Engine)
        assert "".join(coach.stream("Coach me, 3.", max_tokens=5)) == said
        turns = [{"role": "user", "content": "Coach me, 3."}]
        whole = coach.complete(turns, max_tokens=5)
        assert whole.text == said and 1 <= whole.completion_tokens <= 5
        next(coach.stream("Coach me, 4.", max_tokens=100))  # given up: the engine goes on
        assert coach.ask("Coach me, 3.", max_tokens=5) == said
        for wrong in ("", " ", []):
            with pytest.raises(rung.RungError, match="nothing to ask"):
                coach.ask(wrong)
        with pytest.raises(rung.RungError, match="here max_tokens"):
            coach.ask("x", max_new_tokens=3)


def test_compare_asks_base_and_models(studio):
    found = rung.compare(["coach"], ["Coach me, 3.", "Hello"], max_tokens=4, device="cpu")
    assert list(found) == ["Coach me, 3.", "Hello"]
    names = list(found["Hello"])
    assert names[1] == "coach" and len(names) == 2
    with rung.load("coach", dtype="float32", device="cpu") as coach:
        assert coach.ask("Hello", max_tokens=4) == found["Hello"]["coach"]


def test_evaluate_measures_and_records(studio):
    found = rung.evaluate("coach", data=ROWS, metric="perplexity", part="all", device="cpu")
    assert found["coach"].n == 30 and found["coach"].value > 1
    assert found.as_dict()["models"][0]["name"] == "coach"
    kept = rung.Store.open().evaluations.list(model="coach")
    assert found["coach"].value in [e.value for e in kept]
    with pytest.raises(rung.RungError, match="name a model"):
        rung.evaluate(data=ROWS)


def test_export_is_proven(studio, tmp_path):
    assert rung.export("coach", tmp_path / "out").difference < 1e-3


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: rung.tune("x", ROWS, lora={"rnk": 1}), "'rnk' in section 'lora', did you mean 'rank'"),
        (lambda: rung.tune("coach", ROWS, **FAST), "coach"),
        (lambda: rung.tune("x", [1, 2]), "rows must be mappings"),
        (lambda: rung.tune("x", [{"text": {1}}]), "rows must be mappings"),
        (lambda: rung.climb(ROWS, budget="soon"), "give a time such as 90s"),
        (lambda: rung.plan(ROWS, method="lora"), "no setting of a climb"),
        (lambda: rung.load("nobody"), "no model 'nobody'"),
        (lambda: rung.load("coach", dtpe="float32"), "did you mean 'dtype'"),
    ],
)
def test_faults_are_one_line(studio, work, words):
    with pytest.raises(rung.RungError, match=re.escape(words)) as fault:
        work()
    assert "\n" not in str(fault.value)


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNG_HOME", str(_prepare(tmp_path / "home")))
    monkeypatch.setenv("RUNG_EXAMPLE_BASE", SCRATCH)
    notebook = json.loads((ROOT / "examples" / "library.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert not any(c.get("outputs") for c in notebook["cells"])
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        for i, cell in enumerate(cells):
            exec(compile(cell, f"cell {i + 1}", "exec"), names)
    assert "unknown setting 'learning_rate', here lr" in out.getvalue()
    assert names["card"].climb.verdict["says"] and names["proof"].difference < 1e-3
    used = set(re.findall(r"rung\.([A-Za-z]+)", "".join(cells)))
    assert {"tune", "load", "compare", "evaluate", "climb", "export"} <= used
