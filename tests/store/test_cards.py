"""Model cards, what licences allow, and publishing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.artefacts import cards, folders, hub
from rung.artefacts.cards import Card
from rung.artefacts.licences import classify, tightest
from rung.errors import ArtefactError, ConfigError, StoreError
from rung.store.records import DatasetRecord
from rung.types import LICENCE_ORDER

CARD = Card(
    name="coach",
    base="hub:org/smol@main",
    base_name="smol",
    method="prompt_tuning",
    objective="sft",
    parent="earlier",
    datasets=(
        DatasetRecord("d" * 64, "quotes", "/data/quotes.json", "cc-by-nc-4.0", rows=1234),
        DatasetRecord("e" * 64, "alpaca", "hub:tatsu/alpaca", "mit"),
    ),
    licence="CC-BY-NC-4.0",
    licence_class="non-commercial",
    licence_reasons=("data quotes is under cc-by-nc-4.0 (non-commercial)",),
    metrics={"accuracy": {"value": 0.8, "low": 0.71, "high": 0.89, "n": 50}, "loss": 1.23456},
    cost={"seconds": 12.5, "tokens": 123456, "peak_memory_bytes": 3 * 2**30},
    settings={"rate": 1e-4, "system": "a | b\n<b>c</b>", "target": ["q", "v"]},
)


def test_the_hub_reads_the_card(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    cards.write_card(tmp_path, CARD)
    card = ModelCard.load(tmp_path / "README.md")
    data = card.data.to_dict()
    assert data["base_model"] == "org/smol"
    assert data["base_model_relation"] == "adapter"
    assert data["datasets"] == ["tatsu/alpaca"]
    assert data["license"] == "cc-by-nc-4.0"
    assert data["pipeline_tag"] == "text-generation"
    assert data["library_name"] == "peft"
    assert data["tags"] == ["rung", "prompt-tuning", "sft"]
    assert cards.read_card(tmp_path) == data


def test_the_card_of_a_model_of_pictures_loads_its_encoder() -> None:
    card = replace(CARD, pictures=True, pipeline_tag="image-classification", method="lora")
    text = cards._body(card)
    assert 'AutoModel.from_pretrained("org/smol")' in text and "CausalLM" not in text
    assert "`classifier.safetensors`" in text and "rung serve coach" in text
    alone = cards._body(replace(card, base="./folder", base_name="mine"))
    assert "Its base, mine, is no repository of the Hub" in alone and "--to merged" not in alone
    assert "PEFT" not in cards._body(replace(card, peft=False)).split("## Training data")[0]


def test_the_card_says_what_people_ask(tmp_path: Path) -> None:
    text = cards.write_card(tmp_path, CARD).read_text()
    for part in (
        "rung chat coach",
        'from_pretrained("org/smol")',
        "trained on from `earlier`",
        "| quotes | 1,234 |",
        "d" * 64,
        "| accuracy | 0.8 [0.71, 0.89] (n = 50) |",
        "| loss | 1.235 |",
        "| seconds | 12.5 s |",
        "| tokens | 123,456 |",
        "| peak_memory_bytes | 3.0 GiB |",
        "| system | a \\| b &lt;b>c&lt;/b> |",
        "| target | q, v |",
        "Class of use: **non-commercial**",
        "- data quotes is under cc-by-nc-4.0",
    ):
        assert part in text
    assert "/data/" not in text


def test_a_card_of_whole_weights_and_of_a_prompt(tmp_path: Path) -> None:
    full = replace(CARD, relation="finetune", peft=False, licence=None, datasets=())
    text = cards.write_card(tmp_path, full).read_text()
    assert "AutoModelForCausalLM.from_pretrained(folder)" in text
    assert cards.read_card(tmp_path)["library_name"] == "transformers"
    assert cards.read_card(tmp_path)["license"] == "unknown"
    prompt = replace(CARD, peft=False, licence="Our Own v2", metrics={})
    assert "```python" not in cards.write_card(tmp_path, prompt).read_text()
    front = cards.read_card(tmp_path)
    assert (front["license"], front["license_name"]) == ("other", "our-own-v2")
    assert "library_name" not in front


def test_a_folder_without_a_card_or_with_a_broken_one(tmp_path: Path) -> None:
    assert cards.read_card(tmp_path) == {}
    (tmp_path / "README.md").write_text("# no front matter")
    assert cards.read_card(tmp_path) == {}
    (tmp_path / "README.md").write_text("---\na: [\n---\n")
    with pytest.raises(ArtefactError, match="not YAML"):
        cards.read_card(tmp_path)


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("hub:org/name", "org/name"),
        ("org/name@abc", "org/name"),
        ("hf:org/rows:train", "org/rows"),
        ("wheel:package/model.gguf", ""),
        ("/home/me/models/x", ""),
        ("local:~/x", ""),
        ("./x", ""),
        ("smol", ""),
        ("C:\\x", ""),
    ],
)
def test_only_what_is_on_the_hub_is_named_as_such(spec: str, shown: str, tmp_path: Path) -> None:
    assert cards.hub_id(spec) == shown
    front = cards.write_card(tmp_path, replace(CARD, base=spec)) and cards.read_card(tmp_path)
    assert front.get("base_model", "") == shown
    assert ("base_model_relation" in front) == bool(shown)


@pytest.mark.parametrize(
    ("licence", "found"),
    [
        ("apache-2.0", "permissive"),
        ("Apache 2.0", "permissive"),
        ("MIT", "permissive"),
        ("cc-by-4.0", "permissive"),
        ("cc0-1.0", "permissive"),
        ("bsd-3-clause", "permissive"),
        ("cdla-permissive-2.0", "permissive"),
        ("cc-by-sa-3.0", "restricted"),
        ("gpl-3.0-or-later", "restricted"),
        ("llama3.1", "restricted"),
        ("llama2", "restricted"),
        ("gemma", "restricted"),
        ("bigscience-bloom-rail-1.0", "restricted"),
        ("openrail++", "restricted"),
        ("cc-by-nc-4.0", "non-commercial"),
        ("cc-by-nc-sa-4.0", "non-commercial"),
        ("fair-noncommercial-research-license", "non-commercial"),
        ("proprietary", "closed"),
        ("other", "unknown"),
        ("unknown", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_licences_fall_into_classes(licence: str | None, found: str) -> None:
    assert classify(licence) == found


@given(st.lists(st.sampled_from(LICENCE_ORDER)))
def test_the_tightest_part_decides(classes: list) -> None:
    found = tightest(classes)
    if classes:
        assert found in classes
        assert all(LICENCE_ORDER.index(c) <= LICENCE_ORDER.index(found) for c in classes)
    else:
        assert found == "unknown"


class FakeApi:
    """Stands for the Hub; no network."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.calls: list[dict[str, Any]] = []

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        if self.fault:
            raise self.fault
        self.calls.append({"repo_id": repo_id, "private": private, "exist_ok": exist_ok})
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        files = sorted(path.name for path in Path(folder_path).iterdir())
        self.calls.append({"repo_id": repo_id, "files": files})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folders.write(tmp_path / "coach", lambda new: cards.write_card(new, CARD))
    return tmp_path / "coach"


def test_pushing_uploads_the_folder_privately(folder: Path) -> None:
    api = FakeApi()
    assert hub.push(folder, "me/coach", api=api) == "https://hub/me/coach"
    assert api.calls == [
        {"repo_id": "me/coach", "private": True, "exist_ok": True},
        {"repo_id": "me/coach", "files": ["README.md"]},
    ]


@pytest.mark.parametrize("name", ["settings.json", "tools.json"])
def test_neither_paths_nor_commands_with_keys_are_pushed(tmp_path: Path, name: str) -> None:
    tools = ["/home/me/secret-project/tools.py", "mcp:/home/me/bin/serve --token abc", "mcp:npx server"]
    said = {"tools": tools, "system": "Ask /home for ~ help.", "steps": 3}

    def fill(new: Path) -> None:
        cards.write_card(new, CARD)
        (new / name).write_text(json.dumps(said))
        (new / "rung.json").write_text(json.dumps({"config": {"tools": tools}}))

    folders.write(tmp_path / "clerk", fill)
    public = tmp_path / "public"
    hub._public(tmp_path / "clerk", public)
    shown = ["tools.py", "mcp:serve", "mcp:npx"]
    assert json.loads((public / name).read_text()) == {**said, "tools": shown}
    assert json.loads((public / "rung.json").read_text()) == {"config": {"tools": shown}}


def test_nothing_damaged_is_pushed(folder: Path) -> None:
    api = FakeApi()
    (folder / "README.md").write_text("other")
    with pytest.raises(ArtefactError, match="README.md is damaged"):
        hub.push(folder, "me/coach", api=api)
    assert api.calls == []


@pytest.mark.parametrize("repo", ["", "a/b/c", "../x", "a b", "/x"])
def test_a_repository_needs_a_name(folder: Path, repo: str) -> None:
    with pytest.raises(ConfigError, match="is no repository"):
        hub.push(folder, repo, api=FakeApi())


def test_what_the_hub_says_is_one_line(folder: Path) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    def refusal(status: int) -> Exception:
        fault = HfHubHTTPError.__new__(HfHubHTTPError)
        Exception.__init__(fault, "refused\nfor a reason")
        fault.response = SimpleNamespace(status_code=status)  # type: ignore[assignment]
        return fault

    with pytest.raises(ConfigError, match="hf auth login"):
        hub.push(folder, "me/coach", api=FakeApi(refusal(403)))
    with pytest.raises(StoreError, match="refused") as fault:
        hub.push(folder, "me/coach", api=FakeApi(refusal(500)))
    assert "\n" not in str(fault.value)
    with pytest.raises(StoreError, match="does not answer"):
        hub.push(folder, "me/coach", api=FakeApi(ConnectionError("no route")))
    with pytest.raises(ZeroDivisionError):
        hub.push(folder, "me/coach", api=FakeApi(ZeroDivisionError()))
