"""`rung models`, `show`, `runs` and `remove`, as plain functions and as commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rung.artefacts import cards, folders
from rung.cli import models as verbs
from rung.errors import ConfigError, ModelNotFound
from rung.store import Store
from rung.store.records import BaseRecord, DatasetRecord, InUse

app = typer.Typer()
for verb in (verbs.models, verbs.show, verbs.runs, verbs.remove):
    app.command()(verb)


@pytest.fixture
def filled(base: BaseRecord, quotes: DatasetRecord) -> Store:
    """Two models, the second made from the first, in the store at home."""
    store = Store.open()
    folder = folders.model_folder("coach")
    card = cards.Card("coach", base.spec, "lora", base_name=base.name)
    folders.write(folder, lambda new: cards.write_card(new, card))
    run = store.runs.create("coach", "lora", objective="sft", base=base, data=quotes)
    store.runs.update(run.id, status="succeeded", cost={"seconds": 12.5})
    store.models.put(
        "coach",
        method="lora",
        base=base,
        datasets=[quotes],
        run=run.id,
        folder=folder,
        metrics={"accuracy": {"value": 0.8, "low": 0.7, "high": 0.9, "n": 50}},
        cost={"seconds": 12.5},
    )
    odd = DatasetRecord("e" * 64, "[bold]odd[/] name", licence="mit")
    store.models.put("second", method="few_shot", base=base, parent="coach", datasets=[odd])
    store.evaluations.add(model="coach", metric="f1", value=0.5, dataset=quotes)
    return store


def run(*arguments: str, **more: object) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False, **more)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result.stdout


def test_an_empty_store() -> None:
    assert run("models").splitlines() == ["name\tmethod\tbase\tlicence\tquality\tcreated"]
    assert json.loads(run("models", "--json")) == json.loads(run("runs", "--json")) == []


def test_models(filled: Store) -> None:
    lines = [line.split("\t") for line in run("models").splitlines()]
    assert lines[1][:5] == [
        "coach",
        "lora",
        "smol",
        "non-commercial",
        "accuracy 0.8 [0.7, 0.9] (n = 50)",
    ]
    assert [m["name"] for m in json.loads(run("models", "--json"))] == ["coach", "second"]


def test_show_draws_the_lineage_plainly_into_a_pipe(filled: Store) -> None:
    text = run("show", "second")
    assert (
        "model second by few_shot (non-commercial)\n"
        "|-- model coach by lora (non-commercial)\n"
        f"|   |-- base smol (apache-2.0, permissive) {'b' * 12}\n"
        f"|   `-- data quotes (cc-by-nc-4.0, non-commercial) {'d' * 12}\n"
        f"`-- data [bold]odd[/] name (mit, permissive) {'e' * 12}\n"
    ) in text
    assert "licence class: non-commercial\n  data quotes is under cc-by-nc-4.0" in text
    assert "\x1b" not in text


def test_show_says_quality_and_cost(filled: Store) -> None:
    text = run("show", "coach")
    assert "base model: org/smol\n" in text
    assert "accuracy\t0.8 [0.7, 0.9] (n = 50)" in text
    assert "f1\t0.5\tquotes" in text
    assert "seconds\t12.5 s" in text
    told = json.loads(run("show", "coach", "--json"))
    assert told["licence"]["class"] == "non-commercial"
    assert told["lineage"]["children"][0]["name"] == "smol"
    assert told["evaluations"][0]["value"] == 0.5
    folders.remove(folders.model_folder("coach"))
    assert "the folder is gone" in run("show", "coach")


def test_on_a_terminal_there_are_tables_and_a_tree(
    filled: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    verbs.show("second")
    verbs.models()
    verbs.runs(limit=5)
    text = capsys.readouterr().out
    assert "├── model coach by lora" in text
    assert "[bold]odd[/] name" in text
    assert filled.runs.list()[0].id in text  # whole, to be copied


def test_runs(filled: Store) -> None:
    store = filled
    store.runs.create("other", "full")
    assert [line.split("\t")[1] for line in run("runs").splitlines()] == ["model", "other", "coach"]
    assert len(run("runs", "--limit", "1").splitlines()) == 2
    told = json.loads(run("runs", "--status", "succeeded", "--json"))
    assert [r["model"] for r in told] == ["coach"]
    assert len(run("runs", "--model", "none").splitlines()) == 1
    with pytest.raises(ConfigError, match="did you mean 'failed'"):
        verbs.runs(status="fail")


def test_remove_asks_first(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="add --yes"):
        verbs.remove("second")
    with pytest.raises(InUse):
        verbs.remove("coach", yes=True)
    assert folders.model_folder("coach").is_dir()
    assert json.loads(run("remove", "second", "--yes", "--json")) == {
        "removed": "second",
        "kept": None,
    }
    monkeypatch.setattr(typer, "confirm", lambda *a, **k: True)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    verbs.remove("coach")
    assert not folders.model_folder("coach").exists()
    assert filled.models.list() == []
    with pytest.raises(ModelNotFound):
        verbs.remove("coach", yes=True)


def test_remove_leaves_a_folder_that_is_not_its_own(filled: Store, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    filled.models.update("second", folder=mine)
    assert json.loads(run("remove", "second", "--yes", "--json"))["kept"] == str(mine)
    assert mine.is_dir()
