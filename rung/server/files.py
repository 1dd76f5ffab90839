"""Files of clients: their bytes are copied to where nothing of their name decides, then recorded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Literal

from pydantic import Field

from rung.data.sources import suffixes
from rung.server.errors import ApiError
from rung.server.requests import Strict
from rung.server.state import Service
from rung.store.files import fresh_id, place
from rung.store.records import stamp
from rung.store.serving import FileRecord, unix

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
HOUR, MONTH = 3600, 2_592_000  # seconds that a file may last, at least and at most
NAME = 255  # characters of a file's name that are kept


class ExpiresAfter(Strict):
    """How long a file lasts, from when it is made."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=HOUR, le=MONTH)


def expiry(seconds: float | None) -> str | None:
    """The moment in so many seconds, as the store writes it; None: never."""
    return None if seconds is None else stamp(datetime.now(UTC) + timedelta(seconds=seconds))


def stored_name(id: str, name: str) -> str:
    """What the bytes of a file are called here; only the kind is taken from the client's name.

    Raises:
        ApiError: for a compressed file.
    """
    kind, kinds = PurePath(name.replace("\\", "/")).suffix.lower(), suffixes()
    if kind in kinds and kinds[kind].packed:
        raise ApiError("a compressed file is not unpacked here: upload what is in it", param="file")
    return f"{id}{kind if kind in kinds else '.jsonl'}"


def check_size(service: Service, size: int, param: str) -> None:
    """Refuse a file that is empty or too large. Raises ApiError."""
    if size < 1:
        raise ApiError("the file is empty", param=param)
    if size > service.limits.max_file:
        most = service.limits.max_file
        raise ApiError(f"the file is larger than {most} bytes", status=413, param=param)


@contextmanager
def written(target: Path) -> Iterator[BinaryIO]:
    """A new file to write into; it goes again where anything raises.

    Raises:
        ApiError: 503 where the disk does not take it.
    """
    try:
        with target.open("xb") as out:
            yield out
    except OSError as fault:
        target.unlink(missing_ok=True)
        raise ApiError(f"the file cannot be kept: {fault.strerror}", status=503) from None
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def keep(
    service: Service, content: BinaryIO, name: str, *, purpose: str, expires: str | None,
    owner: str | None,
) -> FileRecord:  # fmt: skip
    """Copy an upload, then record it.

    Raises:
        ApiError: for a file that is empty, compressed or too large, or that the disk does not take.
    """
    service.store.files.expire()
    service.store.uploads.expire()
    id = fresh_id()
    name = name[-NAME:]
    stored = stored_name(id, name)
    with written(place(stored)) as out:
        shutil.copyfileobj(content, out, 1 << 20)
        size = out.tell()
        check_size(service, size, "file")
        out.flush()
        return service.store.files.put(
            id, name=name, purpose=purpose, stored=stored, size=size, expires=expires, owner=owner
        )


def shown(file: FileRecord) -> dict[str, Any]:
    """A file in OpenAI's words."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": unix(file.created),
        "expires_at": unix(file.expires),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
