"""A run that was begun before rows, objectives and observers were what they are now goes on.

`fixtures/run_before` is what such a run left behind when it was stopped after four of twelve steps: its
record, its log and a checkpoint of a base made from scratch. `fixtures/run_split_before` let Rung hold
out validation and test rows itself, which it does in another way today.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rung.artefacts import folders
from rung.errors import DataError
from rung.home import folder
from rung.store import Store
from rung.train import checkpoint
from rung.train.job import resume, tune
from rung.train.keeping import data_record
from rung.train.plan import Plan
from rung.train.prepare import read
from tests.train.test_trackers import table

FIXTURES = Path(__file__).parent / "fixtures"
WORDS = ["rise", "shine", "go on", "try again", "be kind", "hold fast"]


def write(path: Path, asked: str) -> str:
    rows = [
        {"prompt": asked.format(i=i), "completion": f"{WORDS[i % 6]} or {WORDS[i % 4]}!"}
        for i in range(9)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def left_behind(name: str, quotes: Path) -> str:
    """A fixture's run in this store, its data where the test has it."""
    record = json.loads((FIXTURES / name / "record.json").read_text())
    config = {**record["config"], "data": str(quotes)}
    if config["validation_data"]:
        config["validation_data"] = write(quotes.parent / "held.jsonl", "Help, {i}.")
        config["test_data"] = write(quotes.parent / "test.jsonl", "Tell me, {i}.")
    data = data_record(read(Plan.of("old", config).data, lambda _: None)[0])
    assert data.digest == record["data"], "the same rows have another digest than before"
    store = Store.open()
    run = store.runs.create("old", "lora", objective="sft", config=config, data=data)
    shutil.copytree(FIXTURES / name, folder("runs") / run.id, dirs_exist_ok=True)
    store.runs.update(run.id, status="interrupted")
    return run.id


def test_it_goes_on_where_it_stopped(rung_home, quotes):
    run = left_behind("run_before", quotes)
    outcome = resume(run)
    assert outcome.state.step == outcome.metrics["steps"] == 12
    assert outcome.state.first_value == pytest.approx(outcome.metrics["validation_loss_of_base"])
    log = [json.loads(x) for x in (folder("runs") / run / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in log if "lr" in e] == list(range(1, 13))
    # From the start it comes to the same, but for how processors round.
    tune(Plan.of("new", {**outcome.plan.settings(), "track": ["csv"]}))
    losses = [value for _, name, value in table("new") if name == "train/loss"]
    assert [e["loss"] for e in log if "lr" in e] == pytest.approx(losses, rel=1e-3)
    folders.verify(folders.model_folder("old"))


def test_rows_that_are_split_in_another_way_are_refused_in_a_line(rung_home, quotes):
    run = left_behind("run_split_before", quotes)
    with pytest.raises(DataError, match="split or rendered in another way.*start a new run") as told:
        resume(run)
    assert "\n" not in str(told.value)


def test_so_are_other_rows_of_todays_runs(make_work):
    work = make_work("lora", "run", steps=4)
    work.run()
    found, _ = checkpoint.newest(work.folder / "checkpoints")
    assert len(found.state.rows) == 64
    again = make_work("lora", "run")
    again.source = type(again.source)(again.train[::-1], 4, 0)
    with pytest.raises(DataError, match="start a new run"):
        again.run()
