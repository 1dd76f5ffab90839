"""Archives: one member of a zip or tar file, or of one inside another, copied out by its path.

    extract(Path("evals-3.0.1.tar.gz"), "evals-3.0.1/data/quotes.zip/quotes.json", Path("copy"))

Nothing else is unpacked, links are not followed, and what is read is bounded, so that an archive of
zeros cannot fill a disk.
"""

from __future__ import annotations

import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from rung.errors import ArtefactError, BaseNotFound, nearest

SUFFIXES = (".zip", ".whl", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_BYTES = 8 << 30  # bytes of a member at most
MAX_FILES = 200_000  # of a folder at most
MAX_DEPTH = 4  # archives within each other at most
MAX_NAMES = 20  # names that a message lists at most


def extract(archive: Path, path: str, copy: Path, whole: str, depth: int = 1) -> None:
    """Copy one member to a file.

    Args:
        path: the member's name, with forward slashes; a part that is an archive is looked into.
        whole: what the user calls the archive, for messages.

    Raises:
        BaseNotFound: no such member, with the nearest one. ArtefactError: the archive is damaged, its
            member too large, or archives stand too deep in each other.
    """
    if depth > MAX_DEPTH:
        raise ArtefactError(f"{whole}: archives stand more than {MAX_DEPTH} deep in each other")
    try:
        names = _names(archive)
        if path in names:
            _copy(archive, path, copy, whole)
            return
        outer = next((name for name in names if path.startswith(f"{name}/") and _packed(name)), None)
        if outer is None:
            hint = nearest(path, names)
            short = len(names) <= MAX_NAMES or "did you mean" in hint
            raise BaseNotFound(f"{whole} holds no '{path}'{hint if short else ''}")
        with tempfile.TemporaryDirectory(dir=copy.parent) as folder:
            inner = Path(folder) / Path(outer).name
            _copy(archive, outer, inner, whole)
            extract(inner, path.removeprefix(f"{outer}/"), copy, f"{whole}/{outer}", depth + 1)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, RuntimeError) as fault:
        raise ArtefactError(f"{whole} is damaged ({fault}): try again") from None


def extract_folder(archive: Path, path: str, copy: Path, whole: str) -> bool:
    """Copy every plain file below a folder of an archive into a new folder; False where it has none.

    Args:
        path, whole: as for `extract`.

    Raises:
        ArtefactError: the archive is damaged, a name in it leaves the folder, or there is too much.
    """
    try:
        names = [name for name in _names(archive) if name.startswith(f"{path}/")]
        if not names or path in _names(archive):
            return False
        if len(names) > MAX_FILES:
            raise ArtefactError(f"{whole}: '{path}' holds more than {MAX_FILES:,} files")
        for name in names:
            inner = name.removeprefix(f"{path}/")
            if inner.startswith("/") or "\\" in inner or {"", ".", ".."} & set(inner.split("/")):
                raise ArtefactError(f"{whole}: '{name}' is not a plain path inside a package")
        _copy_all(archive, {n: copy / n.removeprefix(f"{path}/") for n in names}, whole)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, RuntimeError) as fault:
        raise ArtefactError(f"{whole} is damaged ({fault}): try again") from None
    return True


def _copy_all(archive: Path, wanted: Mapping[str, Path], whole: str) -> None:
    """Copy members in one pass over the archive, MAX_BYTES of them together."""
    left = MAX_BYTES
    for place in wanted.values():
        place.parent.mkdir(parents=True, exist_ok=True)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for name, place in wanted.items():
                with zipped.open(name) as source:
                    left -= _bounded(source, place, name, whole, left)
        return
    with tarfile.open(archive) as tarred:
        for member in tarred:
            packed = tarred.extractfile(member) if member.isfile() and member.name in wanted else None
            if packed is not None:
                with packed:
                    left -= _bounded(packed, wanted[member.name], member.name, whole, left)


def _packed(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _names(archive: Path) -> list[str]:
    """The names of plain files in an archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            return [name for name in zipped.namelist() if not name.endswith("/")]
    with tarfile.open(archive) as tarred:
        return [member.name for member in tarred.getmembers() if member.isfile()]


def _copy(archive: Path, name: str, copy: Path, whole: str) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped, zipped.open(name) as source:
            _bounded(source, copy, name, whole)
        return
    with tarfile.open(archive) as tarred:
        source_file = tarred.extractfile(name)
        if source_file is None:
            raise BaseNotFound(f"{whole}: '{name}' is no file")
        with source_file:
            _bounded(source_file, copy, name, whole)


def _bounded(source: IO[bytes], copy: Path, name: str, whole: str, most: int | None = None) -> int:
    """Copy at most so many bytes, whatever the archive says of the size; returns how many."""
    most = MAX_BYTES if most is None else most
    left = most
    with copy.open("wb") as out:
        while chunk := source.read(min(1 << 20, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise ArtefactError(f"{whole}: '{name}' is larger than {MAX_BYTES >> 30} GiB")
            out.write(chunk)
    return most - left
