"""A local folder in Hugging Face's layout: is it safe and whole, and what identifies its weights?

Refused before anything is loaded: pickled weights, code of its own (`auto_map`), an override of the
attention implementation (which can name code on the Hub), shards outside the folder, and
safetensors whose header does not fit the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rung.bases.cache import sha256_once
from rung.errors import ArtefactError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
INDEX = "model.safetensors.index.json"
CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")
ATTENTION_KEYS = (
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
)


def inspect(path: Path) -> list[Path]:
    """The weight files of a base folder that is safe and whole.

    Raises:
        ArtefactError: naming the file and the reason.
    """
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise ArtefactError(f"{path} holds an adapter, not a base: name the base it stands on")
        raise ArtefactError(f"{path} has no config.json, so it is not a model in Hugging Face's layout")
    if (path / "adapter_config.json").is_file():
        raise ArtefactError(
            f"{path} holds an adapter_config.json beside its config.json: move the adapter away"
        )
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        if (path / name).is_file():
            check_config(read_json(path / name), path / name)
    files = weights(path)
    for file in files:
        check_weights(file)
    return files


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a base's folder.

    Raises:
        ArtefactError: it is not one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as fault:
        raise ArtefactError(f"{path} is not valid JSON: {fault}") from None
    if not isinstance(content, dict):
        raise ArtefactError(f"{path} must hold a JSON object")
    return content


def vocabulary_of(path: Path) -> int | None:
    """How many embeddings a base has, as its config says; None where it does not."""
    config = read_json(path / "config.json")
    told = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    return told if isinstance(told, int) else None


def check_config(config: dict[str, Any], origin: Path) -> None:
    """Refuse a configuration that brings code or replaces the attention.

    Raises:
        ArtefactError: naming the key.
    """
    for key, value in every_key(config):
        if key in CODE_KEYS and value:
            raise ArtefactError(
                f"{origin} has '{key}': it asks to run code that comes with the model, which Rung "
                "never does; use a version whose architecture transformers has built in"
            )
        if key in ATTENTION_KEYS and value is not None:
            raise ArtefactError(
                f"{origin} sets '{key}' to '{value!s:.60}': a base must not choose its "
                "implementation, which may name code elsewhere; remove the key"
            )


def every_key(content: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, those of nested configurations too."""
    waiting = [content]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield from node.items()
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def weights(path: Path) -> list[Path]:
    """The safetensors files that make up the model, in the order of their names.

    Raises:
        ArtefactError: there are none (with the reason), or the index names a file that is missing
            or lies elsewhere.
    """
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    if (path / INDEX).is_file():
        shards = read_json(path / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ArtefactError(f"{path / INDEX} has no weight_map")
        names = sorted({str(name) for name in shards.values()})
        for name in names:
            if name != Path(name).name or not name.endswith(".safetensors"):
                raise ArtefactError(f"{path / INDEX} names '{name}', which is no file beside it")
            if not (path / name).is_file():
                raise ArtefactError(f"{path} lacks {name}, which its index names: fetch it again")
        return [path / name for name in names]
    pickled = sorted(f.name for f in path.iterdir() if f.suffix in PICKLES)
    if pickled:
        raise ArtefactError(
            f"{path} has its weights only as a pickle ({pickled[0]}), which can run code when "
            "read: convert it to safetensors first"
        )
    raise ArtefactError(f"{path} has no model.safetensors and no {INDEX}: nothing to load")


def check_weights(file: Path) -> None:
    """Refuse a safetensors file that is cut short or whose header lies about its content.

    Only the header is read; the library compares every offset with the file's size.

    Raises:
        ArtefactError: with the library's reason.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            pass
    except (SafetensorError, OSError, ValueError) as fault:
        raise ArtefactError(f"{file} is damaged or cut short ({fault}): fetch it again") from None


def digest_of(path: Path, files: list[Path]) -> str:
    """SHA-256 over the sorted (file name, SHA-256) of config.json and the weights."""
    lines = sorted((f.name, sha256_once(f)) for f in [path / "config.json", *files])
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()
