"""The Hub: what is fetched, what is taken from the cache, and each failure as one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rung import bases
from rung.errors import ArtefactError, BaseNotFound

pytestmark = pytest.mark.usefixtures("empty_home")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A Hub with one repository, whose calls are recorded; nothing is in its cache at first."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    calls: list[dict[str, Any]] = []
    path = tmp_path / "snapshots" / COMMIT

    def download(**wanted: Any) -> str:
        calls.append(wanted)
        if wanted.get("local_files_only") and not path.exists():
            raise LocalEntryNotFoundError("not here")
        if not path.exists():
            shutil.copytree(tiny, path)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def test_a_repository_becomes_a_base(snapshot: list[dict[str, Any]]) -> None:
    info = bases.resolve("somebody/tiny-llama@main")
    assert info.name == "somebody/tiny-llama"
    assert info.organisation == "somebody"
    assert info.licence == "cc-by-nc-4.0"
    assert info.extra == {"hub_id": "somebody/tiny-llama", "commit": COMMIT}
    assert len(info.digest) == 64
    assert bases.load(info).tokenizer.pad_token == "<|pad|>"
    assert [c.get("local_files_only", False) for c in snapshot] == [True, False]
    assert snapshot[1]["revision"] == "main"


def test_neither_pickles_nor_code_are_asked_for(snapshot: list[dict[str, Any]]) -> None:
    from huggingface_hub.utils import filter_repo_objects

    bases.resolve("somebody/tiny-llama")
    asked = snapshot[-1]
    files = ["config.json", "model.safetensors", "tokenizer.model", "chat_template.jinja"]
    others = ["pytorch_model.bin", "modeling_x.py", "onnx/model.onnx", "original/params.json"]
    others += ["consolidated.safetensors", "model.pt"]
    taken = filter_repo_objects(
        files + others,
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(taken) == files


def test_what_is_in_the_cache_needs_no_network(snapshot: list[dict[str, Any]]) -> None:
    first = bases.resolve("somebody/tiny-llama")
    snapshot.clear()
    assert bases.resolve("somebody/tiny-llama") == first
    assert [c.get("local_files_only") for c in snapshot] == [True]


def a_copy_of_another_tool(path: Path, tiny: Path, lacking: str) -> None:
    shutil.copytree(tiny, path)
    for file in path.glob(lacking):
        file.unlink()


def test_a_copy_without_a_tokenizer_is_completed_at_its_own_commit(
    snapshot: list[dict[str, Any]], tiny: Path, tmp_path: Path
) -> None:
    a_copy_of_another_tool(tmp_path / "snapshots" / COMMIT, tiny, "tokenizer*")
    with pytest.raises(ArtefactError, match="tokenizer"):  # this Hub has none either
        bases.load(bases.resolve("somebody/tiny-llama"))
    assert [c.get("local_files_only", False) for c in snapshot] == [True, False]
    assert snapshot[1]["revision"] == COMMIT and snapshot[1]["repo_id"] == "somebody/tiny-llama"


@pytest.mark.parametrize("reached", [True, False])
def test_a_copy_without_a_card_asks_for_it(
    snapshot: list[dict[str, Any]], tiny: Path, tmp_path: Path, monkeypatch, reached: bool
) -> None:
    import huggingface_hub

    path, asked = tmp_path / "snapshots" / COMMIT, []
    a_copy_of_another_tool(path, tiny, "README.md")

    def download(repo: str, name: str, **at: Any) -> str:
        asked.append((repo, name, at["revision"]))
        if not reached:
            raise hub_error("network")
        return shutil.copy(tiny / name, path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    info = bases.resolve("somebody/tiny-llama")
    assert info.licence == ("cc-by-nc-4.0" if reached else "unknown")
    assert asked == [("somebody/tiny-llama", "README.md", COMMIT)]


def test_a_card_that_there_is_none_of_is_asked_for_once(
    snapshot: list[dict[str, Any]], tiny: Path, tmp_path: Path, monkeypatch
) -> None:
    import huggingface_hub

    path = tmp_path / "snapshots" / COMMIT
    a_copy_of_another_tool(path, tiny, "README.md")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: object())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: pytest.fail("asked again"))
    assert bases.resolve("somebody/tiny-llama").licence == "unknown"


def test_the_catalogue_knows_the_licence(snapshot: list[dict[str, Any]]) -> None:
    info = bases.resolve("qwen3-0.6b")
    assert (info.name, info.spec) == ("qwen3-0.6b", "Qwen/Qwen3-0.6B")
    assert (info.licence, info.licence_class) == ("apache-2.0", "permissive")
    assert info.extra["context"] == "40960"


def hub_error(kind: str) -> Exception:
    import httpx
    from huggingface_hub import errors

    response = httpx.Response(404, request=httpx.Request("GET", "https://hub.invalid/x"))
    return {
        "gated": lambda: errors.GatedRepoError("gated", response=response),
        "absent": lambda: errors.RepositoryNotFoundError("no", response=response),
        "revision": lambda: errors.RevisionNotFoundError("no", response=response),
        "offline": lambda: errors.OfflineModeIsEnabled("offline"),
        "network": lambda: httpx.ConnectError("no route"),
        "refused": lambda: errors.HfHubHTTPError("503\nlater", response=response),
        "full": lambda: OSError(28, "No space left on device"),
        "cached": lambda: errors.LocalEntryNotFoundError("cannot find"),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gated", "accept its licence"),
        ("absent", "no base 'somebody/qwen3-06b'.*did you mean 'qwen3-0.6b'"),
        ("revision", "no such revision as 'v9'"),
        ("offline", "HF_HUB_OFFLINE is set"),
        ("network", "cannot be reached"),
        ("refused", "try again later"),
        ("full", "no space left"),
        ("cached", "cannot be reached"),
    ],
)
def test_each_failure_says_what_to_do(kind: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(**wanted: Any) -> str:
        raise LocalEntryNotFoundError("x") if wanted.get("local_files_only") else hub_error(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(BaseNotFound, match=words) as caught:
        bases.resolve("somebody/qwen3-06b@v9")
    assert "\n" not in str(caught.value)


def test_a_repository_of_pickles_is_refused(snapshot: list[dict[str, Any]], tiny: Path) -> None:
    (tiny / "model.safetensors").unlink()
    with pytest.raises(ArtefactError, match="model.safetensors"):
        bases.resolve("somebody/old")


def test_a_hub_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_python: Callable[..., str]
) -> None:
    """The library itself against an address where nothing listens."""
    code = (
        "from rung import bases\n"
        "from rung.errors import BaseNotFound\n"
        "try:\n    bases.resolve('somebody/absent-model')\n"
        "except BaseNotFound as fault:\n    print(fault)\n"
    )
    cache = str(tmp_path / "hub")
    said = run_python(code, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_CACHE=cache)
    assert "cannot be reached" in said
    assert said.count("\n") == 1
    said = run_python(code, HF_HUB_OFFLINE="1", HF_HUB_CACHE=cache)
    assert "unset" in said


def test_a_gguf_file_of_a_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    asked: list[dict[str, Any]] = []
    file = tmp_path / "q4.gguf"
    file.write_bytes(b"GGUF")

    def download(**wanted: Any) -> str:
        asked.append(wanted)
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ArtefactError, match="damaged header"):
        bases.resolve("somebody/tiny-gguf/sub/q4.gguf@main")
    assert asked[0]["repo_id"] == "somebody/tiny-gguf"
    assert (asked[0]["filename"], asked[0]["revision"]) == ("sub/q4.gguf", "main")
