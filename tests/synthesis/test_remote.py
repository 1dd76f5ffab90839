"""A teacher behind an API that refuses, goes away or is slow: one line, and nothing lost."""

from __future__ import annotations

import json
import time

import pytest

from rung.cli import run
from rung.remote.openai import RemoteFault
from rung.synthesis.knobs import SynthKnobs
from rung.synthesis.remote_teacher import RemoteTeacher
from rung.synthesis.teacher import Question
from tests.methods.scripted import chat, fault, scripted
from tests.synthesis.conftest import DESCRIPTION, fair, teaching


def synth(out, server, *words):
    given = ["--teacher", f"wise@{server.url}", "--teacher-licence", "mit", "--examples", "40", *words]
    return run(["synth", DESCRIPTION, "--out", str(out), *given])


def test_a_key_that_is_refused_is_told_in_a_line(rung_home, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TEACHERS_KEY", "a-secret")
    with scripted(lambda path, body: fault(401, "no such key")) as server:
        assert synth(tmp_path / "rows.jsonl", server, "--key-variable", "TEACHERS_KEY") == 1
    said = capsys.readouterr().err.strip()
    assert "refuses the key in TEACHERS_KEY (no such key)" in said and "\n" not in said
    assert "a-secret" not in said


def test_a_server_that_goes_away_costs_no_answer(rung_home, tmp_path, capsys):
    left, answered = [60], []

    def mortal(path, body):
        if not left[0]:
            return fault(503, "gone")
        left[0] -= 1
        answered.append(json.dumps(body, sort_keys=True))
        return chat(fair(body))

    whole, out = tmp_path / "whole.jsonl", tmp_path / "rows.jsonl"
    with teaching() as server:
        given = ["--teacher", server.name, "--teacher-licence", "mit", "--examples", "40"]
        assert run(["synth", DESCRIPTION, "--out", str(whole), *given]) == 0
        address = server.name
    capsys.readouterr()
    with scripted(mortal) as server:
        assert synth(out, server, "--at-once", "1") == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "answered 503: gone; 0 of 40 rows are kept: run the same command again" in said
        assert not out.exists()
        before = list(answered)
        left[0] = 10_000
        assert synth(out, server, "--at-once", "1") == 0
        assert len(set(answered)) == len(answered) > len(before) == 60  # none is asked twice
        here = f"wise@{server.url}"
    assert out.read_text().replace(here, address) == whole.read_text()


def test_a_slow_server_is_told_with_the_flag_that_gives_it_time(rung_home):
    def slow(path, body):
        time.sleep(0.5)
        return chat("late")

    with scripted(slow) as server:
        teacher = RemoteTeacher(f"wise@{server.url}", SynthKnobs(timeout=0.05))
        teacher.api.retries = 0
        with pytest.raises(RemoteFault, match=r"no answer within 0\.05 s: raise --timeout"):
            teacher.ask([Question(messages=({"role": "user", "content": "Hello"},), seed=0)])


def test_a_server_with_one_model_needs_no_name_and_rows_tell_it(rung_home):
    model = {"id": "wise", "object": "model", "created": 0, "owned_by": "x"}
    names = {"object": "list", "data": [model]}
    with scripted(lambda path, body: (200, names)) as server:
        assert RemoteTeacher(f"@{server.url}", SynthKnobs()).name == f"wise@{server.url}"


def test_an_address_that_is_none_names_the_flag(rung_home, tmp_path, capsys):
    words = ["--teacher", "wise@ftp://far", "--out", str(tmp_path / "rows.jsonl")]
    assert run(["synth", DESCRIPTION, *words]) == 2
    assert "--teacher 'ftp://far' must be an address" in capsys.readouterr().err
