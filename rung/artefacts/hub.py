"""Publishing a model's folder on the Hub."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Protocol

from rung.artefacts import folders
from rung.errors import ConfigError, StoreError

REPO = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]{0,95}")


MANIFEST = "manifest.json"
COMMAND = "mcp:"  # begins a command that serves tools; its arguments may hold keys
ABOUT = "rung.json"
CALLING = ("settings.json", "tools.json")  # under `tools`, files and commands that a model calls


class Api(Protocol):
    """The part of `huggingface_hub.HfApi` that is used."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...
    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any: ...


def check(repo: str) -> None:
    """Refuse what cannot be a repository, before hours of training.

    Raises:
        ConfigError: saying what it must look like.
    """
    if not REPO.fullmatch(repo) or ".." in repo:
        raise ConfigError(f"'{repo}' is no repository: write NAME or ORGANISATION/NAME")


def require_access(api: Any = None) -> None:
    """Refuse to begin hours of training whose model could not be pushed: nobody is logged in.

    Raises:
        ConfigError: saying how to log in. StoreError: when the Hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        (api or HfApi()).whoami()
    except LocalTokenNotFoundError:
        raise ConfigError(
            "nobody is logged in to the Hub: run hf auth login, or set HF_TOKEN, or leave out "
            "--push-to-hub"
        ) from None
    except HfHubHTTPError as fault:
        status = getattr(fault.response, "status_code", None)
        if status in (401, 403):
            raise ConfigError("the Hub does not take this token: run hf auth login again") from None
        raise StoreError(f"the Hub refused to say who you are ({status})") from None
    except Exception as fault:
        raise StoreError(f"the Hub does not answer: try again later ({fault})") from None


def _public(folder: Path, into: Path) -> None:
    """Copy what others may see: all files but the manifest, without paths of this disk."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_dir() or name.as_posix() == MANIFEST:
            continue
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        told: Any = None
        if name.as_posix() == ABOUT:
            told = _without_paths(folders.read_json(path))
        elif name.as_posix() in CALLING and "tools" in (found := folders.read_json(path)):
            told = {**found, "tools": _without_paths(found["tools"])}
        if told is None:
            shutil.copyfile(path, into / name)
        else:
            text = json.dumps(told, indent=2, sort_keys=True, ensure_ascii=False)
            (into / name).write_text(text + "\n", encoding="utf-8")


def _without_paths(value: Any) -> Any:
    """The same with the last part of every path of a disk in its place, and of a command its name."""
    if isinstance(value, dict):
        return {k: _without_paths(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_paths(v) for v in value]
    if isinstance(value, str) and value.startswith(COMMAND):
        words = value.removeprefix(COMMAND).split()
        return COMMAND + (Path(words[0]).name if words else "")
    if isinstance(value, str) and re.match(r"(/|~|\.{1,2}/|[A-Za-z]:\\).", value):
        return Path(value).name
    return value


def push(folder: str | Path, repo: str, *, private: bool = True, api: Api | None = None) -> str:
    """Upload a verified model folder and return its address.

    Args:
        repo: `name` or `organisation/name`; created when new. private: whether others may not see
            a new one; one that exists stays as it is.
        api: what talks to the Hub; huggingface_hub's own when left out.

    Raises:
        ArtefactError: when the folder is damaged, unsafe or lacks a card.
        ConfigError: when the repository's name is wrong or access is denied.
        StoreError: when the Hub cannot be reached.
    """
    folder = Path(folder)
    check(repo)
    folders.verify(folder)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    client: Api = api if api is not None else HfApi()
    try:
        address = client.create_repo(repo, private=private, exist_ok=True)
        # The address carries the account's name when only the repository's was given.
        where = getattr(address, "repo_id", repo)
        with tempfile.TemporaryDirectory() as public:
            _public(folder, Path(public))
            client.upload_folder(
                repo_id=where, folder_path=public, commit_message=f"Upload {folder.name} with Rung"
            )
    except HfHubHTTPError as fault:
        status = getattr(fault.response, "status_code", None)
        if status in (401, 403):
            raise ConfigError(
                f"the Hub denies access to '{repo}': log in with hf auth login, with a token that "
                "may write"
            ) from fault
        raise StoreError(f"the Hub refused '{repo}' ({status}): {fault}") from fault
    except Exception as fault:
        # The library lets its HTTP client's errors through, and has changed clients before.
        client_fault = type(fault).__module__.startswith(("httpx", "requests", "httpcore"))
        if client_fault or isinstance(fault, OSError):
            raise StoreError(f"the Hub does not answer: try again later ({fault})") from fault
        raise
    return str(address)
