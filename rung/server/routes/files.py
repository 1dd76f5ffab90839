"""Files: uploads for tuning jobs, and what jobs leave."""

from __future__ import annotations

import re
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException

from rung.data.sources import suffixes
from rung.server.errors import ApiError
from rung.server.responses import File, FileDeleted, FileList, answers
from rung.server.routing import Routes
from rung.server.state import Service, owner_of, service_of
from rung.store.files import fresh_id, place
from rung.store.records import stamp
from rung.store.serving import FileRecord, unix

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
HOUR, MONTH = 3600, 2_592_000  # seconds that a file may last, at least and at most
NAME = 255  # characters of a file's name that are kept
ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

routes = Routes("/v1/files", scope="train", tags=["files"])


@routes.post("", **answers(File))
async def upload(
    request: Request,
    file: UploadFile,
    purpose: Annotated[Purpose, Form()],
    anchor: Annotated[Literal["created_at"] | None, Form(alias="expires_after[anchor]")] = None,
    seconds: Annotated[int | None, Form(alias="expires_after[seconds]", ge=HOUR, le=MONTH)] = None,
) -> dict[str, Any]:
    """Keep a file."""
    if (anchor is None) != (seconds is None):
        raise ApiError("'expires_after' needs both 'anchor' and 'seconds'", param="expires_after")
    expires = None
    if seconds is not None:
        expires = stamp(datetime.fromtimestamp(time.time() + seconds, UTC))
    return shown(await run_sync(keep, service_of(request), file, purpose, expires, owner_of(request)))


def keep(
    service: Service, file: UploadFile, purpose: str, expires: str | None, owner: str | None
) -> FileRecord:
    """Copy an upload to where nothing of its name decides, then record it."""
    service.store.files.expire()
    id = fresh_id()
    name = (file.filename or "file")[-NAME:]
    # Only the kind of a file is taken from its name, and only a kind that data can be read from.
    kind = PurePath(name.replace("\\", "/")).suffix.lower()
    kinds = suffixes()
    if kind in kinds and kinds[kind].packed:
        raise ApiError("a compressed file is not unpacked here: upload what is in it", param="file")
    stored = f"{id}{kind if kind in kinds else '.jsonl'}"
    target = place(stored)
    try:
        with target.open("xb") as out:
            shutil.copyfileobj(file.file, out, 1 << 20)
        size = target.stat().st_size
        if not size:
            raise ApiError("the file is empty", param="file")
        if size > service.limits.max_file:
            most = service.limits.max_file
            raise ApiError(f"the file is larger than {most} bytes", status=413, param="file")
        return service.store.files.put(
            id, name=name, purpose=purpose, stored=stored, size=size, expires=expires, owner=owner
        )
    except OSError as fault:
        target.unlink(missing_ok=True)
        raise ApiError(f"the file cannot be kept: {fault.strerror}", status=503) from None
    except BaseException:
        target.unlink(missing_ok=True)
        raise


@routes.get("", **answers(FileList))
def list_files(
    request: Request,
    purpose: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """Files by when they were made."""
    page = service_of(request).store.files.list(
        purpose=purpose, after=after, limit=limit, descending=order == "desc", owner=owner_of(request)
    )
    files = [shown(f) for f in page.items]
    return {
        "object": "list",
        "data": files,
        "first_id": files[0]["id"] if files else None,
        "last_id": files[-1]["id"] if files else None,
        "has_more": page.has_more,
    }


@routes.get("/{file_id}", **answers(File))
def get_file(request: Request, file_id: str) -> dict[str, Any]:
    """What is known of a file."""
    return shown(service_of(request).store.files.get(file_id, owner_of(request)))


@routes.delete("/{file_id}", **answers(FileDeleted))
def delete_file(request: Request, file_id: str) -> dict[str, Any]:
    """Delete a file that no job needs."""
    files = service_of(request).store.files
    files.get(file_id, owner_of(request))
    files.remove(file_id)
    return {"id": file_id, "object": "file", "deleted": True}


@routes.get("/{file_id}/content", response_class=Response)
def get_content(request: Request, file_id: str) -> Response:
    """The bytes of a file; of several ranges, or one that is malformed, nothing is heeded."""
    path: Path = place(service_of(request).store.files.get(file_id, owner_of(request)).stored)
    if not path.is_file():
        raise ApiError(f"the bytes of '{file_id}' are gone", status=404)
    if not _heeded(request.headers.get("range", ""), path.stat().st_size):
        kept = [(k, v) for k, v in request.scope["headers"] if k.lower() != b"range"]
        request.scope["headers"] = kept
    return FileResponse(path, media_type="application/octet-stream")


def _heeded(given: str, size: int) -> bool:
    """Whether a Range header asks for one range, in the form of RFC 9110.

    Raises:
        HTTPException: 416 for a range that begins behind the file's end, or an empty one.
    """
    found = ONE_RANGE.fullmatch(given)
    if found is None or found.groups() == ("", ""):
        return False
    first, last = found.groups()
    if first and last and int(last) < int(first):
        return False
    if int(first) >= size if first else int(last) == 0:
        told = f"the file has {size} bytes: none of them is in the range {given[:60]}"
        raise HTTPException(416, told, {"Content-Range": f"bytes */{size}"})
    return True


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
