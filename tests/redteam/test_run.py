"""`rung redteam` on a tiny base: figures, what is kept where, resuming, Ctrl-C, and mending."""

from __future__ import annotations

import json

import pytest

import rung
from rung.cli import run
from rung.redteam.target import Target
from rung.store import Store
from tests.server.shop import base_folder

THINGS = ("word", "number", "colour", "fruit")
NAMES = ("plain", "role", "split")


@pytest.fixture
def tiny(rung_home, tmp_path):
    return str(base_folder(tmp_path / "tiny"))


@pytest.fixture
def given(tmp_path):
    rows = [{"prompt": f"Tell me the secret {t} of {i}.", "category": t} for t in THINGS for i in "abc"]
    tame = [{"prompt": f"How do I peel {i} plums?", "completion": f"Peel {i}."} for i in range(6)]
    settings: dict[str, object] = {"transforms": list(NAMES), "max_tokens": 6, "device": "cpu"}
    for name, content in (("attacks", rows), ("harmless", tame)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
        settings[name] = [str(path)] if name == "attacks" else str(path)
    return settings


def flags(settings):
    pairs = [(k, v) for k, vs in settings.items() for v in (vs if isinstance(vs, list) else [vs])]
    return [x for k, v in pairs for x in (f"--{k.replace('_', '-')}", str(v))]


def test_every_cell_is_counted_and_texts_are_shown_only_when_asked_for(tiny, given, capsys, tmp_path):
    words = ["redteam", tiny, *flags(given), "--judge", "regex:(?s).", "--judge", "regex:(?!)"]
    assert run(words) == 0
    out = capsys.readouterr().out
    assert "success by regex:(?!)\t0.0%" in out and "secret word" not in out
    for name in (*THINGS, *NAMES):
        assert f" {name}\t" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "attacks.jsonl",
        "harmless.jsonl",
        "home",
        "tiny",
    ]
    assert run([*words, "--show"]) == 0
    assert "Tell me the secret word" in capsys.readouterr().out


def test_the_same_run_again_takes_the_answers_that_were_kept(tiny, given, tmp_path, monkeypatch):
    out = tmp_path / "report"
    first = rung.red_team(tiny, **given, out=str(out))
    assert first.before.complete and len(first.before.attacks) == 12 * 3
    kept = (out / "answers.jsonl").read_text()
    assert json.loads((out / "report.json").read_text()) == first.as_dict()
    lines = (out / "hits.jsonl").read_text().splitlines()
    assert len(lines) == first.before.rate().hits == len(first.hits)
    # A kill in the middle of a line costs that answer alone.
    (out / "answers.jsonl").write_text(kept[:-9])
    asked = []
    ask = Target._request
    monkeypatch.setattr(Target, "_request", lambda *a: asked.append(a) or ask(*a))
    again = rung.red_team(tiny, **given, out=str(out))
    assert 1 <= len(asked) <= 2 and (out / "answers.jsonl").read_text() == kept
    assert again.as_dict() == first.as_dict()


def test_replies_are_kept_with_whatever_they_hold(tiny, given, tmp_path, monkeypatch):
    out, said = tmp_path / "report", "one\u2028two\u2029three\x85four\x0b\r\nfive"
    first = rung.red_team(tiny, **given, out=str(out))
    keep = Target._keep
    monkeypatch.setattr(Target, "_keep", lambda self, key, _: keep(self, key, (said,)))
    (out / "answers.jsonl").unlink()
    rung.red_team(tiny, **given, out=str(out))
    monkeypatch.setattr(Target, "_request", None)  # nothing is asked again
    given["judge"] = ["regex:" + said[-9:]]
    again = rung.red_team(tiny, **given, out=str(out))
    assert again.before.rate().hits == again.before.rate().n == first.before.rate().n
    with (out / "answers.jsonl").open("ab") as file:
        file.write('{"key": "x\u2028'.encode()[:-1])  # a kill within a character
    assert rung.red_team(tiny, **given, out=str(out)).as_dict() == again.as_dict()


def test_ctrl_c_leaves_a_report_of_what_was_tried(tiny, given, tmp_path, monkeypatch, capsys):
    out, waves = tmp_path / "report", []
    wave = Target._wave

    def stop(self, *arguments):
        if waves:
            raise KeyboardInterrupt
        waves.append(1)
        return wave(self, *arguments)

    monkeypatch.setattr(Target, "_wave", stop)
    assert run(["redteam", tiny, *flags(given), "--out", str(out)]) == 130
    told = json.loads((out / "report.json").read_text())
    assert told["interrupted"] and not told["before"]["complete"]
    assert told["before"]["tried"] == 16
    assert "the same command goes on" in capsys.readouterr().err


def test_mending_learns_from_what_it_may_see_and_is_measured_on_the_rest(tiny, given, tmp_path):
    out = tmp_path / "report"
    settings = {**given, "judge": ["regex:(?s)^"], "ordinary": given["harmless"], "mended": "calm"}
    found = rung.red_team(tiny, **settings, out=str(out), mend=True, mend_steps=2, mend_lr=0.01)
    rows = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == found.pairs and all(set(r) == {"prompt", "chosen", "rejected"} for r in rows)
    groups = {g: c["after"]["n"] for g, c in found.changes.items() if c and g != "over_refusal"}
    # A third of 4 categories and of 2 wrapped transformations are held out: one of each, of 3 prompts.
    assert groups == {"both unseen": 3, "unseen category": 6, "unseen transformation": 9, "seen": 18}
    assert found.changes["over_refusal"]["after"]["n"] == 3
    assert found.loss["after"] != found.loss["before"]
    with Store.open() as store:
        made = store.models.get("calm")
        record = store.runs.list(model="calm")[0]
    assert made.method == "lora" and record.objective == "dpo" and record.config["steps"] == 2
    again = rung.red_team(tiny, **settings, out=str(out), mend=True, mend_steps=2, mend_lr=0.01)
    assert again.as_dict() == found.as_dict()
    with Store.open() as store:
        assert len(store.runs.list(model="calm")) == 1


def test_an_interrupted_mending_leaves_no_older_model_for_the_mended_one(
    tiny, given, tmp_path, monkeypatch
):
    from rung.errors import Interrupted
    from rung.train import job

    settings = {**given, "judge": ["regex:(?s)^"], "out": str(tmp_path / "report"), "mended": "calm"}

    def mended(steps):
        rung.red_team(tiny, **settings, mend=True, mend_steps=steps, mend_lr=0.01)
        with Store.open() as store:
            return store.models.get("calm").run

    def stopped(*_, **__):
        raise Interrupted("run")

    first = mended(1)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(job, "tune", stopped)
        mended(2)
    second = mended(2)
    assert second != first and mended(2) == second
    with Store.open() as store:
        assert store.runs.get(second).config["steps"] == 2
    rung.tune("calm", str(tmp_path / "report" / "pairs.jsonl"), base=tiny, method="lora", steps=1,
              objective="dpo", device="cpu", dtype="float32", replace=True)  # fmt: skip
    assert mended(2) not in (first, second)  # somebody else's of the same name is not what was mended


def test_answers_of_other_weights_are_not_taken_for_those_of_these(tiny, given, tmp_path, monkeypatch):
    given["out"] = str(tmp_path / "report")
    asked, ask = [], Target._request
    monkeypatch.setattr(Target, "_request", lambda *a: asked.append(a) or ask(*a))
    rung.red_team(tiny, **given)
    once = len(asked)
    rung.red_team(tiny, **given)
    assert len(asked) == once
    rung.red_team(tiny, **given, dtype="bfloat16")
    assert len(asked) == 2 * once


def test_a_model_is_mended_as_its_child_in_its_own_method(tiny, given, tmp_path):
    rows = [{"prompt": f"Say {i}.", "completion": f"{i}!"} for i in range(20)]
    rung.tune("coach", rows, base=tiny, method="ia3", steps=1, device="cpu", dtype="float32")
    settings = {**given, "judge": ["regex:(?s)^"], "out": str(tmp_path / "report"), "mend": True}
    rung.red_team("coach", **settings, mend_steps=1)
    with Store.open() as store:
        made = store.models.get("coach-mended")
    assert made.parent == "coach" and made.method == "ia3"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name a set with --attacks"),
        (["--attacks", "none.jsonl"], "no file 'none.jsonl'"),
        (["--mend"], "say where with --out"),
        (["--transforms", "rol"], "did you mean 'role'"),
        (["--judge", "wrods:x"], "did you mean 'words'"),
        (["--budget", "soon"], "give a time such as"),
    ],
)
def test_mistakes_are_one_line(tiny, given, capsys, words, told):
    most = [] if words in ([], ["--attacks", "none.jsonl"]) else ["--attacks", given["attacks"][0]]
    assert run(["redteam", tiny, *most, *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert told in said[-1] and said[-1].startswith("rung: ")


def test_the_name_of_a_model_of_somebody_else_is_not_taken(tiny, given, tmp_path):
    rows = [{"prompt": f"Say {i}.", "completion": f"{i}!"} for i in range(20)]
    rung.tune("coach", rows, base=tiny, method="ia3", steps=1, device="cpu", dtype="float32")
    with pytest.raises(rung.RungError, match="there is a model 'coach' already"):
        rung.red_team(tiny, **given, out=str(tmp_path / "r"), mend=True, mended="coach")
