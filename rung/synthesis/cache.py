"""Cache of answers: one JSON file for each set of questions, named by their SHA-256.

A file is written beside its place and then put there, so that a process killed at any moment leaves
whole files alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rung import home
from rung.synthesis.teacher import Answer

FOLDER = "synthesis"  # in the cache


def key_of(digests: Sequence[str]) -> str:
    """Name a set of questions by their digests, in their order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def read(key: str) -> list[Answer] | None:
    """Read the answers to a set of questions; None where they are not there, or damaged."""
    try:
        return [Answer(**one) for one in json.loads(_path(key).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return None


def write(key: str, answers: Sequence[Answer]) -> None:
    """Keep the answers to a set of questions."""
    path = _path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".answers-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump([asdict(one) for one in answers], file, ensure_ascii=False)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _path(key: str) -> Path:
    return home.folder("cache") / FOLDER / key[:2] / f"{key}.json"
