"""FAULTS 51 for flags, settings, names and the store: one line that says what to do, exit code 2."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rung.cli import run
from rung.store import Store
from rung.train.plan import Plan
from tests.cli.conftest import FAST, SCRATCH, Answer, Ask

pytestmark = pytest.mark.faults


def rung(*arguments: str, **environment: str) -> Answer:
    """The command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "rung.cli", *arguments],
        capture_output=True, text=True, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tun"], "no verb 'tun', did you mean 'tune'?"),
        (["xyzzy"], "no verb 'xyzzy', known: add, align, bases,"),
        (["--hepl"], "no flag --hepl, did you mean '--help'?"),
        (["tune"], "missing argument 'NAME' (rung tune --help"),
        (["models", "more"], "(more) (rung models --help"),
        (["models", "--jsn"], "no flag --jsn, did you mean '--json'?"),
        (["show", "\udcff"], "'\\udcff' is not UTF-8"),
        (["show", "\x1b[31m"], "no model '\\x1b[31m'"),
        (["runs", "--limit", "0"], "'--limit'"),
        (["runs", "--status", "runing"], "did you mean 'running'?"),
        (["bases", "--modality", "txt"], "did you mean 'text'?"),
        (["bases", "--licence", "mit"], "known: closed, non-commercial, permissive"),
        (["serve", "--port", "99999"], "--port is 99999"),
    ],
)
def test_words_that_mean_nothing(ask: Ask, rung_home: Path, words: list[str], said: str) -> None:
    assert said in ask(*words).refused()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            "--lrr 1 --epoch 2 --rankk=3",
            ["'--lr'?; no flag --epoch, did you mean '--epochs'?", "--rank'"],
        ),
        ("--lr", ["--lr needs a value"]),
        ("--lr --epochs 2", ["--lr needs a value"]),
        ("--lr fast", ["--lr is 'fast', must be a number"]),
        ("--lr nan", ["--lr is nan, must be above 0"]),
        ("--seed 1.5", ["--seed is '1.5', must be a whole number"]),
        (f"--seed {2**70}", ["must be at least 0 and at most 4294967295"]),
        ("--batch-size 1e30", ["at most 65536"]),
        (
            "--lr -1 --epochs x --schedule cosin --dtype fp16 --warmup 2",
            ["--lr is -1", "--epochs is 'x'", "'cosine'", "'float16'", "--warmup is 2"],
        ),
        ("--method prompt_tuning --rank 4", ["--rank belongs to lora, not to prompt_tuning"]),
        (
            "--method full --rank 4 --lr x --init-text y",
            ["--rank belongs", "--init-text", "--lr is 'x'"],
        ),
        ("--method lroa", ["did you mean 'lora'"]),
        ("--objective stf", ["did you mean 'sft'"]),
        ("--device gpu", ["this machine has cpu"]),
        ("--device meta", ["this machine has cpu"]),
        ("--device cuda:99", ["this machine has cpu"]),
        ("--init vcab --method prompt_tuning", ["did you mean 'vocab'"]),
        ("--push-to-hub no//way", ["NAME or ORGANISATION/NAME"]),
        ("--parent nobody", ["no model 'nobody'"]),
        ("--method last_layers --layers 9", ["last_layers does not fit", "--layers 9", "the base's 2"]),
        ("--method prompt_tuning --virtual-tokens 300", ["takes 300 positions", "256 in all"]),
        ("--targets qproj", ["--targets 'qproj'", "q_proj"]),
        ("--method ia3 --outputs qproj", ["--outputs 'qproj'", "q_proj"]),
        ("--validation 0.6 --test 0.6", ["leave nothing to train on"]),
        ("--max-length 2", ["--max-length"]),
    ],
)
def test_flags(ask: Ask, rung_home: Path, good: Path, flags: str, said: list[str]) -> None:
    line = ask("tune", "x", "--data", good, "--base", SCRATCH, *flags.split()).refused()
    for words in said:
        assert words in line
    assert Store.open().models.list() == []


def test_a_gpu_that_is_not_there(ask: Ask, rung_home: Path, good: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert "this machine has cpu" in ask("tune", "x", "--data", good, "--device", "cuda").refused()
    assert "this machine has cpu" in ask("chat", SCRATCH, "-p", "x", "--device", "cuda").refused()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "'' cannot name a model"),
        ("a/b", "cannot name a model"),
        ("..", "cannot name a model"),
        ("../x", "cannot name a model"),
        (".hidden", "cannot name a model"),
        ("é b", "cannot name a model"),
        ("x" * 300, "cannot name a model"),
        ("CON", "reserved"),
        ("smollm2-135m", "the name of a base: choose another"),
    ],
)
def test_names_of_models(ask: Ask, rung_home: Path, good: Path, name: str, said: str) -> None:
    assert said in ask("tune", name, "--data", good, "--base", SCRATCH).refused()


# -- a file of settings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"lr: [1\n b: {", ["set.yaml:2: not YAML"]),
        (b"- 1\n- 2", ["must hold 'name: value' lines"]),
        (b"just text", ["must hold 'name: value' lines"]),
        (b"\xff\xfe\x00", ["is not UTF-8"]),
        (b"lrr: 1\nepoch: 2\nseed: x\n", ["'lrr', did you mean 'lr'", "'epochs'", "--seed is 'x'"]),
        (b"lr:\n", ["--lr needs a value"]),
        (b"lr: {a: 1}", ["'lr' is a setting and no section"]),
        (b"seed: true", ["--seed is True"]),
        (b"base: [a, b]", ["--base is", "a text"]),
        (b"allow_leakage: perhaps", ["true or false"]),
        (b"method: lroa", ["did you mean 'lora'"]),
        (b"method: prompt_tuning\nrank: 3", ["--rank belongs to lora"]),
        (b"!!python/object/apply:os.system ['true']", ["not YAML"]),
        (b"lr: 2024-01-01", ["a number"]),
    ],
)
def test_settings_files(ask: Ask, tmp_path: Path, good: Path, content: bytes, said: list[str]) -> None:
    path = tmp_path / "set.yaml"
    path.write_bytes(content)
    line = ask("tune", "x", "--data", good, "--config", path).refused()
    for words in said:
        assert words in line


def test_settings_files_that_are_not_there(ask: Ask, tmp_path: Path, good: Path) -> None:
    missing = tmp_path / "none.yaml"
    said = ask("tune", "x", "--data", good, "--config", missing).refused()
    assert said == f"cannot read {missing}: No such file or directory"
    assert "Is a directory" in ask("tune", "x", "--data", good, "--config", tmp_path).refused()


def test_flags_win_over_the_file(
    ask: Ask, tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Plan] = []

    def stop(plan: Plan, watcher: Any, **_: Any) -> Any:
        seen.append(plan)
        raise KeyboardInterrupt

    monkeypatch.setattr("rung.train.job.tune", stop)
    path = tmp_path / "set.yaml"
    path.write_text(
        f"lr: 1e-3\nbatch-size: 3\nmethod: prompt_tuning\nvirtual_tokens: 7\ndata: {good}\n"
    )
    assert ask("tune", "x", "--config", path, "--lr", "0.5").code == 130
    (plan,) = seen
    assert (plan.train.lr, plan.train.batch_size, plan.config.virtual_tokens) == (0.5, 3, 7)
    assert (
        ask("tune", "x", "--config", path, "--method", "lora")
        .refused()
        .startswith("--virtual-tokens belongs to prefix_tuning, prompt_tuning")
    )


# -- models and runs -------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["show", "remove", "chat", "compare", "serve", "export", "tune"])
def test_models_that_are_not_there(
    ask: Ask, studio: Path, good: Path, tmp_path: Path, verb: str
) -> None:
    more = {
        "remove": ["--yes"],
        "chat": ["-p", "x"],
        "compare": ["-p", "x"],
        "serve": ["--port", "0"],
        "export": [str(tmp_path / "out")],
        "tune": ["--data", str(good), "--base", SCRATCH, "--parent", "coahc"],
    }
    name = "x" if verb == "tune" else "coahc"
    assert "no model 'coahc' (rung models lists them), did you mean 'coach'?" in (
        ask(verb, name, *more.get(verb, [])).refused()
    )


def test_what_cannot_be_asked(ask: Ask, studio: Path) -> None:
    for words in (["chat", "coach", "-p", " "], ["compare", "coach"], ["compare", "coach", "-p", ""]):
        assert "nothing to ask" in ask(*words).refused()
    assert "no model ''" in ask("chat", "", "-p", "x").refused()
    assert "did you mean 'float16'" in ask("chat", "coach", "-p", "x", "--dtype", "fp16").refused()
    assert "no room for an answer" in ask("chat", "coach", "-p", "x " * 500).refused()
    assert "--seed must fit" in ask("chat", "coach", "-p", "x", "--seed", 2**80).refused()
    assert "name a model to serve" in ask("serve", "--port", "0").refused()
    assert "cannot be served on" in ask("serve", "coach", "--host", "999.1.1.1").refused()


def test_exports_that_cannot_be(ask: Ask, studio: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert "not empty: choose another" in ask("export", "coach", tmp_path / "full").refused()
    assert "not empty: choose another" in ask("export", "coach", tmp_path / "full/file").refused()
    unknown = ask("export", "coach", tmp_path / "a", "--to", "onnx").refused()
    assert "known: control_vector, gguf, gguf_lora, merged" in unknown
    assert "did you mean" in ask("export", "coach", tmp_path / "a", "--dtype", "flot32").refused()
    half = ask("export", "coach", tmp_path / "a", "--dtype", "float16").refused()
    assert "--to peft writes float32, not float16" in half
    assert "cannot create" in ask("export", "coach", tmp_path / "full/file/deeper/out").refused()
    assert (tmp_path / "full" / "file").read_text() == "mine"
    made = ask("export", "coach", tmp_path / "new" / "folder")
    assert made.code == 0 and "logits within" in made.out


def test_a_parent_in_use_stays(ask: Ask, studio: Path) -> None:
    assert "add --yes" in ask("remove", "coach").refused()
    assert "'coach' is the parent or base of 'kid'" in ask("remove", "coach", "--yes").refused()
    assert ask("show", "coach").code == 0


def test_runs_that_cannot_go_on(ask: Ask, studio: Path) -> None:
    store = Store.open()
    (run_of_kid, *_) = store.runs.list(model="kid")
    assert f"did you mean '{run_of_kid.id}'" in ask("resume", run_of_kid.id[:-2]).refused()
    assert "has finished: its model is 'kid'" in ask("resume", run_of_kid.id).refused()
    going = store.runs.create("busy", "lora")
    store.runs.update(going.id, status="running")
    assert f"is still running in process {os.getpid()}" in ask("resume", going.id).refused()
    store.runs.update(going.id, status="failed")
    alone = ask("climb", "numbers.jsonl", "--force").refused()
    assert "--force takes up a climb of a host that is gone: name it with --resume CLIMB" in alone


# -- the store and the home ------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y", "http://x", "://", "sqlite://"])
def test_a_store_that_cannot_be(ask: Ask, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("RUNG_STORE", url)
    assert "RUNG_STORE" in ask("models").refused()


def test_a_home_that_cannot_be(ask: Ask, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for home in (good / "home", good, "~nobody-of-that-name/x"):
        monkeypatch.setenv("RUNG_HOME", str(home))
        for words in (
            ["models"],
            ["bases"],
            ["data", good],
            ["chat", "x", "-p", "x"],
            ["tune", "x", "--data", good, "--base", SCRATCH],
        ):
            assert "RUNG_HOME" in ask(*words).refused()
        assert ask("--help").code == 0


def test_a_store_that_is_locked(
    ask: Ask, studio: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the user's mistake: exit code 1, still one line."""
    monkeypatch.setitem(Store.open.__func__.__kwdefaults__, "busy_seconds", 0.1)  # type: ignore[attr-defined]
    other = sqlite3.connect(studio / "rung.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        for words in (["remove", "kid", "--yes"], ["tune", "x", "--data", good, *FAST]):
            told = ask(*words)
            assert told.code == 1 and told.err.splitlines()[-1].startswith("rung: the store")
            assert "locked by another process: wait for it" in told.err
            assert "Traceback" not in told.err
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert ask("show", "kid").code == 0


# -- what comes out --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["models"],
        ["runs"],
        ["show", "coach"],
        ["bases"],
        ["data", "GOOD", "--base", SCRATCH],
        ["compare", "coach", "kid", "-p", "x", "--max-tokens", "3"],
    ],
)
def test_output_for_programs(ask: Ask, studio: Path, good: Path, words: list[str]) -> None:
    words = [str(good) if word == "GOOD" else word for word in words]
    told = ask(*words, "--json")
    assert told.code == 0, told
    assert json.loads(told.out)
    plain = ask(*words)
    assert plain.code == 0
    assert "\x1b" not in plain.out + plain.err


def test_a_tuning_says_one_json_value(ask: Ask, rung_home: Path, good: Path) -> None:
    told = ask("tune", "x", "--data", good, *FAST, "--json")
    assert told.code == 0
    assert json.loads(told.out)["model"] == "x"
    assert "\x1b" not in told.err
    assert json.loads(ask("remove", "x", "--yes", "--json").out)["removed"] == "x"


def test_an_empty_store_says_how_to_begin(ask: Ask, rung_home: Path) -> None:
    assert ask("models").err == "no models yet: make one with rung tune\n"


def test_output_that_cannot_be_written(studio: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rung.cli", "models"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "rung: the system refused: No space left on device\n"


def test_a_reader_that_goes_away(studio: Path) -> None:
    asked = subprocess.Popen(
        [sys.executable, "-m", "rung.cli", "models", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert asked.stdout and asked.stderr
    asked.stdout.close()
    assert asked.stderr.read() == b""
    assert asked.wait() in (0, 1)
    asked.stderr.close()


def test_a_terminal_of_another_encoding(studio: Path) -> None:
    told = rung("show", "coach", PYTHONIOENCODING="ascii")
    assert told.code == 0 and not told.err


def test_a_process_of_its_own_says_the_same(rung_home: Path) -> None:
    assert rung("shwo").refused() == "no verb 'shwo', did you mean 'show'?"


def test_a_fault_of_rung_itself_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rung.cli.usage.check_verb", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(["models"])
