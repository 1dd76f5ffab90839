"""Help: quick, complete, and readable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from rung import cli, methods
from rung.cli import VERBS, usage
from rung.cli.tune import tune as tune_command
from rung.config import knobs_of
from rung.data.knobs import DataKnobs
from rung.train.knobs import RunKnobs, TrainKnobs
from tests.cli.conftest import Ask

HEAVY = ("torch", "transformers", "datasets", "sqlalchemy", "numpy", "huggingface_hub")


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_imports_nothing_heavy(verb: str) -> None:
    """The time is printed, not judged: it depends on the machine (0.3 s is the aim)."""
    code = (
        "import sys, time; began = time.perf_counter(); from rung.cli import run; "
        f"code = run({[verb, '--help'] if verb else ['--help']!r}); "
        "print(round(time.perf_counter() - began, 3), code, "
        f"*[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    seconds, *rest = done.stderr.split()
    assert rest == ["0"], done.stderr
    print(f"rung {verb} --help: {seconds} s after the interpreter's own start")


def test_every_verb_is_listed(ask: Ask) -> None:
    shown = ask("--help")
    assert shown.code == 0 and not shown.err
    for verb in VERBS:
        assert f" {verb} " in shown.out
    assert ask("--version").out.startswith("rung ")


def test_the_list_of_verbs_imports_none_of_their_modules() -> None:
    code = (
        "import sys; from rung.cli import VERBS, run; run(['--help']); "
        "print(*[m for m, _ in VERBS.values() if f'rung.cli.{m}' in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr.split(), done.stderr


def test_the_list_says_of_a_verb_what_its_own_help_says() -> None:
    listed: Any = typer.main.get_command(cli.app(summary=True))
    whole: Any = typer.main.get_command(cli.app())
    assert [*listed.commands] == [*VERBS]
    for verb in VERBS:
        assert listed.commands[verb].help == whole.commands[verb].help


def test_alone_it_shows_its_help(ask: Ask) -> None:
    shown = ask()
    assert shown.code in (0, 2) and not shown.err
    assert "Usage: rung" in shown.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = ask(verb, "--help")
    assert shown.code == 0 and not shown.err
    assert f"Usage: rung {verb}" in shown.out
    assert "\x1b" not in shown.out
    assert max(len(line) for line in shown.out.splitlines()) <= 100
    for odd in ("<bool>", "{name}", "None", "typing"):
        assert odd not in shown.out


def test_tune_lists_every_knob_once_under_its_part(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = ask("tune", "--help-all").out
    own = [methods.get(name).Config for name in methods.names()]
    for cls in (RunKnobs, DataKnobs, TrainKnobs, *own):
        for knob in knobs_of(cls):
            assert shown.count(f"│ {knob.flag} ") == 1, knob.flag
    for heading in ("run", "data", "training", "method lora", "methods prefix_tuning, prompt_tuning"):
        assert f"─ {heading} ─" in shown
    assert "by method" in shown
    assert "--help-all" in shown
    listed = ask("data", "--help").out
    for knob in knobs_of(DataKnobs)[1:]:
        assert f"│ {knob.flag} " in listed


@pytest.mark.parametrize(
    ("words", "shown", "hidden"),
    [
        (["tune"], "--rank", "--virtual-tokens"),
        (["tune", "--method", "prefix_tuning"], "--virtual-tokens", "--rank"),
        (["tune", "--method=prompt_tuning", "x"], "--init-text", "--rank"),
        (["tune", "--config", "settings.yaml"], "--virtual-tokens", "--rank"),
        (["tune", "--config", "settings.yaml", "--method", "lora"], "--rank", "--virtual-tokens"),
        (["tune", "--config", "absent.yaml"], "--rank", "--virtual-tokens"),
        (["climb"], "--budget", "--virtual-tokens"),
        (["climb", "--only", "rag"], "--passages", "--rank"),
        (["plan", "--only", "ia3", "--only", "lora"], "--rank", "--virtual-tokens"),
    ],
)
def test_help_shows_the_panel_of_the_chosen_method(
    words: list[str], shown: str, hidden: str, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("settings.yaml").write_text("run: {method: prefix_tuning}\n")
    page = ask(*words, "--help").out
    assert f"│ {shown} " in page and f"│ {hidden} " not in page
    assert "│ --lr " in page and "│ --help-all " in page
    every = ask(words[0], "--help-all").out
    assert f"│ {shown} " in every and f"│ {hidden} " in every


def test_names_of_other_libraries_are_answered_with_rungs(ask: Ask) -> None:
    told = ask("tune", "x", "--learning_rate", "1", "--load-in-4bit", "--lora-r=8").refused()
    for words in ("no flag --learning_rate, here --lr (", "here --quantize nf4 (", "here --rank ("):
        assert words in told
    told = ask("climb", "x", "--per-device-train-batch-size", "4").refused()
    assert "here --batch-size (Rows per optimiser step.)" in told


def test_a_knob_of_trainings_is_listed_with_them_alone(ask: Ask) -> None:
    """`--steps`, which the agent has, too, stood under its heading, as if it were for agents."""
    (panel,) = [p for p in tune_command.panels if "steps" in [k.name for k in p.knobs]]
    assert panel.heading == "training" and not panel.choice


@pytest.mark.parametrize(("word", "here"), [("train", "tune"), ("list", "models"), ("help", "--help")])
def test_a_verb_of_another_tool_is_answered_with_rungs(word: str, here: str, ask: Ask) -> None:
    assert f"no verb '{word}', here rung {here}" in ask(word, "x").refused()


def test_what_stands_for_other_verbs_exists() -> None:
    for word, here in usage.ELSEWHERE.items():
        assert word not in VERBS
        assert here.split()[1] in VERBS or here.split()[1].startswith("--")


def test_help_in_a_narrow_terminal(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for verb in VERBS:
        assert ask(verb, "--help").code == 0


def test_a_reader_that_goes_away_is_no_fault() -> None:
    shown = subprocess.Popen(
        [sys.executable, "-m", "rung.cli", "tune", "--help"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert shown.stdout and shown.stderr
    shown.stdout.close()
    assert shown.stderr.read() == b""
    assert shown.wait() in (0, 1)
    shown.stderr.close()
