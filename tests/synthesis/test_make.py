"""From a description to a model, in one command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rung import bases
from rung.cli import run
from rung.cli.make import told
from rung.data import DataKnobs, load
from rung.evals.reply_loss import change, reply_losses
from rung.library import making
from rung.models import load_engine
from rung.store import Store
from tests.synthesis.conftest import DESCRIPTION, fair, teaching, wanted

SCRATCH = "scratch:layers=1,width=32,heads=2,vocab=300,context=512"
TINY = ["--base", SCRATCH, "--dtype", "float32", "--device", "cpu", "--epochs", "20", "--lr", "0.02"]


def monotone(body):
    """Replies that are alike enough to be learnt from few rows."""
    if wanted(body) is None:
        return f"Dear friend, all will be well in time, number {body['seed'] % 10_000} of my list."
    return fair(body)


def made(tmp_path, *words):
    out = tmp_path / "rows.jsonl"
    with teaching(monotone) as server:
        teacher = ["--teacher", server.name, "--teacher-licence", "mit", "--examples", "40"]
        code = run(["make", "coach", DESCRIPTION, "--out", str(out), *teacher, *TINY, *words])
    return code, out


def test_rows_are_written_and_learnt_and_the_gain_is_shown(rung_home, tmp_path, capsys):
    code, out = made(tmp_path, "--json", "--similarity", "1")
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 0 and len(out.read_text().splitlines()) == 40
    gained = told["change"]
    assert gained["after"] < gained["before"] and gained["high"] < 0 and gained["rows"] >= 5
    assert Store.open().models.get("coach").method == "lora"
    for answers in told["answers"].values():
        assert {"coach"} < set(answers)


def test_it_is_measured_where_and_as_it_was_trained(rung_home, tmp_path, monkeypatch):
    loaded, own = [], making.load_engine
    monkeypatch.setattr(
        making, "load_engine", lambda names, **said: (loaded.append(said), own(names, **said))[1]
    )
    code, _ = made(tmp_path, "--similarity", "1", "--dtype", "bfloat16", "--epochs", "1")
    assert code == 0 and loaded == [{"dtype": "bfloat16", "device": "cpu"}]


def test_the_same_command_again_keeps_the_rows_and_other_rows_are_not_written_over(
    rung_home, tmp_path, capsys
):
    out = tmp_path / "rows.jsonl"
    out.write_text("mine\n")
    code, _ = made(tmp_path, "--similarity", "1")
    assert code == 2 and "holds other rows" in capsys.readouterr().err
    assert out.read_text() == "mine\n"


def test_a_wrong_setting_is_told_before_anything_is_asked(rung_home, tmp_path, capsys):
    with teaching() as server:
        words = ["--teacher", server.name, "--teacher-licence", "mit", "--lr", "much"]
        assert run(["make", "coach", DESCRIPTION, *words]) == 2
        assert not server.asked
    assert "--lr is 'much'" in capsys.readouterr().err


def test_a_climb_takes_the_rows_where_a_bar_is_given(rung_home, tmp_path, capsys):
    code, out = made(tmp_path, "--similarity", "1", "--bar", "rouge_l=0.99", "--method", "lora")
    assert code == 2 and "leave --method out" in capsys.readouterr().err


def test_reply_losses_are_those_of_the_models_own_forward(rung_home, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Say {i}.", "completion": f"It is {i * 7}!"} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = load(DataKnobs(data=str(path))).examples
    engine, plain = load_engine([SCRATCH]), bases.load(bases.resolve(SCRATCH)).model
    model = engine.model(SCRATCH)
    found = reply_losses(engine.bank, model, examples)
    for example, (nats, tokens) in zip(examples, found, strict=True):
        ids = model.template.render(example).ids
        start = len(model.template.prompt(example.messages[:-1]))
        with torch.no_grad():
            logits = plain(torch.tensor([ids])).logits[0].log_softmax(-1)
        own = -sum(float(logits[i - 1, ids[i]]) for i in range(start, len(ids)))
        assert nats == pytest.approx(own, rel=1e-4) and tokens == len(ids) - start


def test_a_change_that_all_rows_share_is_shown_and_none_is_not():
    before = np.array([[10.0 + i, 5] for i in range(20)])
    better = change(before, before - [[1.0, 0]])
    assert better.certain and better.after - better.before == pytest.approx(-0.2)
    assert not change(before, before).certain and "no difference" in told(change(before, before))
    assert not change(before[:4], before[:4] - [[1.0, 0]]).certain  # four rows show nothing
