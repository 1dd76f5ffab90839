"""Files at an address (https, http, s3), through fsspec (extra `remote`; for buckets extra `s3`).

A file is fetched whole, bounded in size, and kept until the address has another one. Only the command
line and the library read addresses: a served request names files that were uploaded.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from rung import home
from rung.data import sources
from rung.data.sources import base
from rung.errors import DataError, one_line

MAX_BYTES = 8 << 30  # of one file
CHUNK = 1 << 20  # bytes read at once
CONNECT, SILENT = 30, 120  # seconds until a connection stands, and between two pieces of a file
# By which file systems tell one version of a file from another.
VERSION = (
    "ETag",
    "Content-MD5",
    "Digest",
    "Last-Modified",
    "LastModified",
    "VersionId",
    "mtime",
    "size",
)
EXTRAS = {"http": "remote", "https": "remote", "s3": "s3"}


class Source(base.Source):
    scheme = "https"
    also = ("http", "s3")
    form = "https://HOST/FILE"

    def read(self, source: str, limit: int | None) -> base.Rows:
        return sources.read_file(fetched(source), source)


def fetched(address: str) -> Path:
    """The local copy of the file at an address, fetched where the address has another one than is kept.

    Raises:
        DataError: naming the address that cannot be read, is no file, or is larger than `MAX_BYTES`.
    """
    try:
        system, path = _system(address)
        told = system.info(path)
        if told.get("type") == "directory":
            raise DataError(f"'{address}' is a folder: name a file")
        if (told.get("size") or 0) > MAX_BYTES:
            raise DataError(_too_large(address))
        version = {name: str(told[name]) for name in VERSION if told.get(name) is not None}
        target = _place(address, str(version))
        if not target.exists() or not version.keys() - {"size"}:
            _copy(system, path, target, address)
    except DataError:
        raise
    except Exception as fault:  # each file system raises kinds of its own
        raise DataError(_told(address, fault)) from None
    return target


def _system(address: str) -> tuple[Any, str]:
    """(file system, path) of an address; raises DataError where its package is missing."""
    scheme = address.partition(":")[0].lower()
    options: dict[str, Any] = {}
    try:
        import fsspec

        if scheme in ("http", "https"):
            import aiohttp

            patience = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENT)
            options = {"client_kwargs": {"timeout": patience}}
        return fsspec.url_to_fs(address, **options)
    except ImportError:
        extra = EXTRAS.get(scheme, "remote")
        raise DataError(
            f"reading '{address}' needs the extra '{extra}': pip install 'rung[{extra}]'"
        ) from None


def _place(address: str, version: str) -> Path:
    """Where a version of a file is kept, under its own name, which says what kind of file it is."""
    name = PurePosixPath(unquote(urlsplit(address).path)).name
    name = re.sub(r"[^\w.-]+", "_", name).strip(".") or "data"
    key = hashlib.sha256(f"{address}\n{version}".encode()).hexdigest()[:32]
    return home.folder("cache") / "addresses" / key / name


def _copy(system: Any, path: str, target: Path, address: str) -> None:
    """Fetch a file beside its place, and move it there once it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as out, system.open(path, "rb", block_size=0) as there:
            while piece := there.read(CHUNK):
                if out.tell() + len(piece) > MAX_BYTES:
                    raise DataError(_too_large(address))
                out.write(piece)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


def _told(address: str, fault: Exception) -> str:
    """What went wrong in one line; fsspec says of every fault of HTTP that there is no such file."""
    cause = fault.__cause__ or fault
    if isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) == 404:
        return f"there is no file at '{address}'"
    reason = one_line([str(cause).strip() or type(cause).__name__])[:200]
    return f"cannot read '{address}' ({reason}): check the address and the network"


def _too_large(address: str) -> str:
    return f"the file at '{address}' has more than {MAX_BYTES >> 30} GB: fetch a part of it yourself"
