"""Files: uploads for tuning jobs, and what jobs leave."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import Form, Query, Request, UploadFile
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException

from rung.server.errors import ApiError
from rung.server.files import HOUR, MONTH, Purpose, expiry, keep, shown
from rung.server.lists import paged
from rung.server.responses import File, FileDeleted, FileList, answers
from rung.server.routing import Routes
from rung.server.state import owner_of, service_of
from rung.store.files import place

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
    service, owner = service_of(request), owner_of(request)
    kept = partial(keep, service, purpose=purpose, expires=expiry(seconds), owner=owner)
    return shown(await run_sync(kept, file.file, file.filename or "file"))


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
    return paged([shown(f) for f in page.items], page.has_more)


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
