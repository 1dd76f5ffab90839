"""A tiny random model on disk, and a home with an empty cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TEXTS = ["the quick brown fox jumps over the lazy dog", "a tiny model needs a tiny text"] * 20


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose cache is empty too, and that vanishes after the test."""
    home = tmp_path / "empty-home"
    home.mkdir()
    monkeypatch.setenv("RUNG_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def tiny_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with a tokenizer and a model card. Not to be changed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rung.bases.scratch import train_tokenizer

    path = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    tokenizer = train_tokenizer(TEXTS, vocab=300, context=64)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    (path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nlanguage: en\n---\n# Tiny\n")
    return path


@pytest.fixture
def tiny(tiny_original: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_original, tmp_path / "tiny-llama"))


@pytest.fixture
def wheel_file(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """Builds a wheel with the given members."""
    import zipfile

    def build(members: dict[str, bytes], name: str = "some_data-1.2-py3-none-any.whl") -> Path:
        path = tmp_path / "wheels" / name
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
            folder = "-".join(name.split("-")[:2]) + ".dist-info"
            archive.writestr(
                f"{folder}/METADATA",
                f"Metadata-Version: 2.1\nName: {name.split('-')[0]}\nVersion: {name.split('-')[1]}\n",
            )
            archive.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
            archive.writestr(f"{folder}/RECORD", "")
        return path

    return build


@pytest.fixture
def run_python() -> Callable[..., str]:
    """Runs code in a fresh interpreter with settings of its environment; returns its stdout."""

    def run(code: str, **settings: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=os.environ | settings,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
