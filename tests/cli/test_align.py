"""`rung align`: three stages as one lineage, what is there is not made again, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rung.methods import artefact
from rung.store import Store
from tests.cli.conftest import SCRATCH, ask
from tests.server.shop import base_folder

__all__ = ["ask"]


@pytest.fixture
def data(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    shown = write("d.jsonl", [{"prompt": f"Praise {i}.", "completion": "Good."} for i in range(40)])
    pairs = [{"prompt": f"Praise {i}!", "chosen": f"Good {i}.", "rejected": "Bad."} for i in range(40)]
    return {"--demonstrations": shown, "--preferences": write("p.jsonl", pairs)}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "align.yaml"
    path.write_text(
        "imitate: {steps: 2}\njudge: {steps: 3, lr: 1e-2}\npolicy: {batch_size: 4, kl: 0.1}\nsteps: 2\n"
    )
    return ("--config", str(path))


def flags(data):
    return [x for pair in data.items() for x in pair]


def test_three_stages_are_one_lineage(rung_home, ask, data, config, tmp_path):
    base = str(base_folder(tmp_path / "tiny"))
    settings = ("--base", base, "--device", "cpu", "--dtype", "float32", "--answer-tokens", "8")
    found = ask("align", "helper", *flags(data), *config, *settings, "--json")
    assert found.code == 0, found.err
    stages = json.loads(found.out)
    assert [s["model"] for s in stages] == ["helper-sft", "helper-judge", "helper"]
    assert all(s["made"] for s in stages) and "test_reward" in stages[2]["metrics"]
    with Store.open() as store:
        models = [store.models.get(s["model"]) for s in stages]
        run = store.runs.list(model="helper")[0]
    assert len({m.base for m in models}) == 1 and models[2].parent == "helper-sft"
    assert [artefact.verb(m.folder) for m in models] == ["chat", "eval", "chat"]
    card = Path(models[1].folder, "README.md").read_text("utf-8")
    assert "rung eval helper-judge" in card and "pipeline_tag: text-classification" in card
    assert run.config["reward"] == ["model:helper-judge"] and run.config["steps"] == 2
    assert run.objective == "ppo" and run.config["kl"] == 0.1
    again = ask("align", "helper", *flags(data), *config, *settings)
    assert again.code == 0, again.err
    assert again.err.count("is there already") == 3
    assert again.out.splitlines()[2].startswith("policy\thelper\ttest reward ")


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_what_was_broken_off_goes_on_also_in_the_place_of_an_older_model(
    rung_home, ask, data, config, tmp_path, monkeypatch, status
):
    from rung.errors import Interrupted, TrainingStopped
    from rung.objectives.rollouts import RolloutSource

    settings = (
        *config, "--base", str(base_folder(tmp_path / "tiny")), "--device", "cpu", "--dtype", "float32",
        "--answer-tokens", "8",
    )  # fmt: skip
    assert ask("align", "helper", *flags(data), *settings).code == 0
    for wrong in ({"--prompts": "/nowhere.jsonl"}, {"--by": "sft"}):
        assert ask("align", "helper", *flags({**data, **wrong}), *settings, "--replace").code == 2
    with Store.open() as store:  # nothing is lost by a mistake
        before = {name: store.models.get(name).run for name in ("helper-sft", "helper-judge", "helper")}
    draw, drawn = RolloutSource._draw, []

    def stopped(self, *given):
        drawn.append(1)
        if len(drawn) == 2:
            raise Interrupted if status == "interrupted" else TrainingStopped("no figure")
        return draw(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(RolloutSource, "_draw", stopped)
        found = ask("align", "helper", *flags(data), *settings, "--replace")
    assert found.code == (130 if status == "interrupted" else 1)
    assert status == "failed" or "same command, without --replace: rung align helper" in found.err
    with Store.open() as store:
        run = store.runs.list(model="helper")[0]
        made = {name: store.models.get(name).run for name in ("helper-sft", "helper-judge")}
    assert run.status == status and not set(made.values()) & set(before.values())
    again = ask("align", "helper", *flags(data), *settings)
    assert again.code == 0, again.err
    assert again.err.count("is there already") == 2
    with Store.open() as store:
        assert store.models.get("helper").run == run.id
        assert {name: store.models.get(name).run for name in made} == made


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--by", "sft"), "--by sft does not learn from rewards: choose grpo, ppo, rloo"),
        (("--base", SCRATCH), "stages share a base"),
        (("--by", "pp0"), "did you mean 'ppo'"),
        (("--preferences", "/nowhere.jsonl"), "no file '/nowhere.jsonl'"),
    ],
)
def test_mistakes_are_one_line(rung_home, ask, more, said):
    assert said in ask("align", "x", "--preferences", "p.jsonl", *more).refused()
    assert "--preferences is missing" in ask("align", "x").refused()
