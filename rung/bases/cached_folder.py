"""Folders in the cache that were fetched from packages, kept with the SHA-256 of each file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rung.bases.cache import read_record, sha256, stamp, write_record
from rung.errors import ArtefactError

SIDE = ".folder.json"  # beside the folder, so that it holds what was fetched and nothing else


def unchanged(target: Path) -> bool:
    """Whether the cached folder is there with the files it was recorded with, and no others.

    Sizes and modification times are looked at each time; the bytes only when those differ.
    """
    record = read_record(_side(target))
    files: dict[str, Any] = record.get("files") or {}
    if not files or not target.is_dir() or set(_files(target)) != set(files):
        return False
    moved = [name for name, told in files.items() if stamp(target / name) != told["stamp"]]
    if any(sha256(target / name) != files[name]["sha256"] for name in moved):
        return False
    if moved:
        for name in moved:
            files[name]["stamp"] = stamp(target / name)
        write_record(_side(target), record)
    return True


def keep(copy: Path, target: Path, package: str, path: str) -> None:
    """Move a fetched folder into the cache with its record, in place of a damaged one.

    A folder that was recorded before must come back with the same files.

    Raises:
        ArtefactError: it does not.
    """
    side = _side(target)
    before = read_record(side)
    digests = {name: sha256(copy / name) for name in _files(copy)}
    told = {name: one["sha256"] for name, one in (before.get("files") or {}).items()}
    if before.get("package") == package and told and told != digests:
        raise ArtefactError(
            f"'{path}' of {package} does not hold the files recorded in {side}: "
            "delete that record if the new ones are to be trusted"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    copy.replace(target)
    files = {n: {"sha256": digest, "stamp": stamp(target / n)} for n, digest in digests.items()}
    write_record(side, {"package": package, "member": path, "files": files})


def _files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _side(target: Path) -> Path:
    return target.with_name(target.name + SIDE)
