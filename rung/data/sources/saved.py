"""Folders that `save_to_disk` of the `datasets` library writes, of one set or of splits (extra `hub`).

saved/state.json, saved/data-00000-of-00001.arrow            ->  saved
saved/train/state.json, saved/test/state.json, ...           ->  saved (its train), saved:test
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rung.data import licence, tables
from rung.data.sources import base
from rung.errors import DataError, one_line

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
PLAIN = re.compile(r"\w+(?:\.\w+)*")  # names of splits, as the library allows them
END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream in Arrow's format


class Source(base.FileKind):
    suffixes = ()

    def claims(self, folder: Path) -> bool:
        return _is_set(folder) or bool(_splits(folder))

    def licence(self, path: Path) -> str:
        told = _json(_main(path)[0] / INFO).get("license")
        return told.lower() if isinstance(told, str) and told else licence.UNKNOWN

    def rows(self, path: Path, faults: list[str], notes: list[str]) -> Iterator[base.Named]:
        main, others = _main(path)
        if others:
            notes.append(
                f"{path.name} holds the splits {', '.join([main.name, *others])}: {main.name} is read; "
                f"another is named as {path}:{others[0]}, for example with --test-data"
            )
        name = main.name if main == path else f"{path.name}/{main.name}"
        try:
            _whole(main)
            if _json(main / STATE).get("_data_files") == []:  # no rows, which the library cannot open
                return
            with tables.quiet():
                table = tables.library(str(path)).load_from_disk(str(main))
            yield from tables.rows(name, table.with_format(None))  # a format may hide columns
        except DataError:
            raise
        except Exception as fault:  # the libraries raise many kinds, for files of JSON and of Arrow
            told = one_line((str(fault).strip() or type(fault).__name__).splitlines()[:2])
            faults.append(
                f"{name}: cannot be read as saved by datasets ({told}): save or copy it again"
            )


def _main(path: Path) -> tuple[Path, list[str]]:
    """The folder of the data set to read, and the splits beside it.

    Raises:
        DataError: where there are several splits and none is called train.
    """
    if _is_set(path):
        return path, []
    splits = _splits(path)
    chosen = "train" if "train" in splits else splits[0]
    if chosen != "train" and len(splits) > 1:
        raise DataError(
            f"'{path}' holds the splits {', '.join(splits)}: name the one to read, such as "
            f"{path}:{chosen}"
        )
    return path / chosen, [name for name in splits if name != chosen]


def _splits(path: Path) -> list[str]:
    """The names of a folder's splits, as they were written; those that are there if that is lost."""
    told = _json(path / SPLITS).get("splits")
    if isinstance(told, list) and told and all(isinstance(n, str) and PLAIN.fullmatch(n) for n in told):
        return told
    return sorted(p.name for p in path.iterdir() if _is_set(p)) if path.is_dir() else []


def _is_set(path: Path) -> bool:
    """Whether two of what a saved data set is made of are there, so that a damaged one is known."""
    if not path.is_dir():
        return False
    found = [(path / STATE).is_file(), (path / INFO).is_file(), any(path.glob("*.arrow"))]
    return sum(found) >= 2  # noqa: PLR2004


def _whole(folder: Path) -> None:
    """Raises DataError for a folder without one of its files, or with one whose end is missing."""
    if not folder.is_dir():
        raise DataError(
            f"'{folder}' is not there, and the folder beside it says that it is: copy it again"
        )
    told = _json(folder / STATE).get("_data_files")
    for name in (STATE, INFO):
        if not _json(folder / name):
            raise DataError(
                f"{folder / name} is missing or damaged: save the data set or copy it again"
            )
    for one in told if isinstance(told, list) else ():
        path = folder / str(one.get("filename") if isinstance(one, dict) else one)
        if not path.is_file():
            raise DataError(f"{path} is missing: save the data set or copy it again")
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - len(END)))
            if file.read() != END:
                raise DataError(f"{path} is cut short: save the data set or copy it again")


def _json(path: Path) -> dict[str, Any]:
    """What a file of JSON holds; nothing where it is none, or no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
