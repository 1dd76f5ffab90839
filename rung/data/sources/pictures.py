"""Pictures in a folder for each label, as they lie on disk or in a zip archive.

    photos/apple/1.jpg, photos/pear/7.png    ->    two rows, of the labels apple and pear

Needs Pillow (extra `pictures`). Files that are no pictures by their names are counted in a note.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from rung.data.picture_rows import PLACE
from rung.data.problem import counted, places
from rung.data.sources import base
from rung.errors import DataError
from rung.pictures.reading import MEMBER, SUFFIXES

PARTS = {"train", "training", "val", "valid", "validation", "test", "testing", "eval"}


class Source(base.FileKind):
    suffixes = (".zip",)
    folders = True

    def rows(self, path: Path, faults: list[str], notes: list[str]) -> Iterator[base.Named]:
        files = _members(path) if path.is_file() else _files(path)
        found = [(name, place) for name, place in files if _kind(name) in SUFFIXES]
        left = [name for name, _ in files if _kind(name) not in SUFFIXES]
        if not found:
            raise DataError(
                f"'{path}' holds no pictures ({', '.join(SUFFIXES)}): name a file in it, or a folder "
                "with a folder of pictures for each label"
            )
        if left:
            notes.append(
                f"{counted(left, 'file is', 'files are')} no picture by name: left out ({places(left)})"
            )
        yield from _labelled(path, found, notes)


def _labelled(path: Path, found: list[tuple[str, str]], notes: list[str]) -> Iterator[base.Named]:
    """Each picture with the name of the folder that it lies in."""
    alone = [name for name, _ in found if "/" not in name]
    if len(alone) == len(found):
        raise DataError(
            f"'{path}' holds pictures without labels: put them into a folder for each label, or name a "
            "table with a column of their paths and one of labels"
        )
    tops = {name.split("/")[0].lower() for name, _ in found if "/" in name}
    if tops <= PARTS and all(name.count("/") > 1 for name, _ in found):
        part = sorted(tops)[0]
        raise DataError(
            f"'{path}' holds parts, not labels: name {path / 'train'}, and with --test-data the part "
            f"to judge by, such as {path / part}"
        )
    if alone:
        notes.append(
            f"{counted(alone, 'picture lies', 'pictures lie')} in no folder of a label: "
            f"left out ({places(alone)})"
        )
    for name, place in found:
        if "/" in name:
            yield name, {PLACE: place, "label": PurePosixPath(name).parent.name}


def _files(root: Path) -> list[tuple[str, str]]:
    """(name below the folder, path) of every file but hidden ones, in the order of their names."""
    found = []
    for path in sorted(root.rglob("*")):
        inner = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") for part in inner.parts):
            found.append((inner.as_posix(), str(path)))
    return found


def _members(path: Path) -> list[tuple[str, str]]:
    """The same of an archive's members; what macOS adds to archives is no member."""
    try:
        with zipfile.ZipFile(path) as opened:
            names = sorted(i.filename for i in opened.infolist() if not i.is_dir())
    except (OSError, zipfile.BadZipFile) as fault:
        raise DataError(f"{path} cannot be read as a zip archive: {fault}") from None
    hidden = ("__MACOSX/",)
    kept = [
        n for n in names
        if not n.startswith(hidden) and not any(p.startswith(".") for p in n.split("/"))
    ]  # fmt: skip
    inner = _inside(kept)
    return [(n.removeprefix(inner), f"{path}{MEMBER}{n}") for n in kept]


def _inside(names: list[str]) -> str:
    """The folder that holds everything, where labels' folders lie below it; else empty."""
    tops = {n.split("/")[0] for n in names}
    deep = all(n.count("/") > 1 for n in names)
    return f"{tops.pop()}/" if len(tops) == 1 and deep else ""


def _kind(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
