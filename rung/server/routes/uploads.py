"""Uploads: large files in parts, which become a file once all of them have arrived."""

from __future__ import annotations

import hashlib
import shutil
from functools import partial
from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import Request, UploadFile
from pydantic import Field

from rung.server.errors import ApiError
from rung.server.files import NAME, ExpiresAfter, Purpose, check_size, expiry, stored_name, written
from rung.server.files import shown as shown_file
from rung.server.requests import Strict
from rung.server.responses import File, Moment, Shape, answers
from rung.server.routing import Routes
from rung.server.state import Service, owner_of, service_of
from rung.store import files, uploads
from rung.store.records import now
from rung.store.serving import Conflict, FileRecord, PartRecord, UploadRecord, UploadStatus, unix

MAX_PART = 64 << 20  # bytes
CHUNK = 1 << 20  # bytes that are copied at once

routes = Routes("/v1/uploads", scope="train", tags=["uploads"])


class UploadRequest(Strict):
    bytes: int
    filename: str = Field(min_length=1, max_length=NAME)
    mime_type: str = Field(min_length=1, max_length=255)
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class CompleteRequest(Strict):
    part_ids: list[str] = Field(min_length=1, max_length=uploads.MAX_PARTS)
    md5: str | None = Field(None, pattern="^[0-9a-fA-F]{32}$")


class Upload(Shape):
    """A file that arrives in parts."""

    id: Annotated[str, Field(pattern="^upload_")]
    object: Literal["upload"]
    bytes: Annotated[int, Field(ge=1)]
    created_at: Moment
    expires_at: Moment
    filename: str
    purpose: str
    status: UploadStatus
    file: File | None


class UploadPart(Shape):
    """A part of an upload."""

    id: Annotated[str, Field(pattern="^part_")]
    object: Literal["upload.part"]
    created_at: Moment
    upload_id: str


@routes.post("", **answers(Upload))
def create_upload(request: Request, asked: UploadRequest) -> dict[str, Any]:
    """Announce a file that is going to come in parts, within an hour."""
    service = service_of(request)
    check_size(service, asked.bytes, "bytes")
    stored_name("", asked.filename)  # a kind that would be refused at the end is refused now
    store = service.store.uploads
    store.expire()
    expires = expiry(uploads.LIFETIME)
    assert expires is not None
    lasts = asked.expires_after.seconds if asked.expires_after else None
    record = UploadRecord(
        id=uploads.fresh_id("upload"), name=asked.filename, purpose=asked.purpose, bytes=asked.bytes,
        mime=asked.mime_type, expires=expires, lasts=lasts, owner=owner_of(request),
    )  # fmt: skip
    return shown(store.put(record))


@routes.post("/{upload_id}/parts", **answers(UploadPart))
async def add_part(request: Request, upload_id: str, data: UploadFile) -> dict[str, Any]:
    """Keep a part; parts may come in any order, and side by side."""
    part = await run_sync(keep_part, service_of(request), upload_id, data, owner_of(request))
    return {
        "id": part.id,
        "object": "upload.part",
        "created_at": unix(part.created),
        "upload_id": part.upload,
    }


@routes.post("/{upload_id}/complete", **answers(Upload))
async def complete_upload(request: Request, upload_id: str, asked: CompleteRequest) -> dict[str, Any]:
    """Make the file of its parts, in the order that is given."""
    service, owner = service_of(request), owner_of(request)
    upload, file = await run_sync(partial(joined, service, upload_id, asked, owner))
    return shown(upload, file)


@routes.post("/{upload_id}/cancel", **answers(Upload))
def cancel_upload(request: Request, upload_id: str) -> dict[str, Any]:
    """Give an upload up; its parts are deleted."""
    return shown(service_of(request).store.uploads.cancel(upload_id, owner_of(request)))


def keep_part(service: Service, id: str, data: UploadFile, owner: str | None) -> PartRecord:
    """Copy a part to where nothing that the client says decides, then record it.

    Raises:
        ApiError: for a part that is empty or too large. UploadNotFound, Conflict: as `Uploads`.
    """
    store = service.store.uploads
    store.pending(id, owner)
    part = uploads.fresh_id("part")
    with written(uploads.place(part)) as out:
        shutil.copyfileobj(data.file, out, CHUNK)
        size = out.tell()
        if not size:
            raise ApiError("the part is empty", param="data")
        if size > MAX_PART:
            raise ApiError(f"the part is larger than {MAX_PART} bytes", status=413, param="data")
        out.flush()
        return store.add_part(id, part, size)


def joined(
    service: Service, id: str, asked: CompleteRequest, owner: str | None
) -> tuple[UploadRecord, FileRecord]:
    """The file that the parts of an upload make.

    Raises:
        ApiError: for an unknown or repeated part, a size other than announced, or another checksum.
    """
    store = service.store.uploads
    upload, parts = store.pending(id, owner), store.parts(id)
    for part in asked.part_ids:
        if part not in parts:
            raise ApiError(f"'{part[:80]}' is no part of this upload", param="part_ids")
    if len(set(asked.part_ids)) < len(asked.part_ids):
        raise ApiError("a part is named twice", param="part_ids")
    size = sum(parts[part].bytes for part in asked.part_ids)
    if size != upload.bytes:
        told = f"the parts have {size} bytes, and {upload.bytes} were announced"
        raise ApiError(told, param="part_ids")
    file = files.fresh_id()
    stored = stored_name(file, upload.name)
    with written(files.place(stored)) as out:
        digest = _copy(asked.part_ids, out)
        if asked.md5 is not None and digest != asked.md5.lower():
            told = f"the MD5 of the file is {digest}, not {asked.md5.lower()}"
            raise ApiError(told, param="md5", code="checksum_mismatch")
        record = FileRecord(
            file, upload.name, upload.purpose, stored, size, now(), expiry(upload.lasts), upload.owner
        )
        return store.complete(id, record)


def _copy(parts: list[str], out: Any) -> str:
    """Write parts one behind the other; returns the MD5 of all, in hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        try:
            with uploads.place(part).open("rb") as content:
                while piece := content.read(CHUNK):
                    digest.update(piece)
                    out.write(piece)
        except FileNotFoundError:
            raise Conflict("the upload was ended meanwhile: begin a new one") from None
    out.flush()
    return digest.hexdigest()


def shown(upload: UploadRecord, file: FileRecord | None = None) -> dict[str, Any]:
    """An upload in OpenAI's words, with the file that it became."""
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": unix(upload.created),
        "expires_at": unix(upload.expires),
        "filename": upload.name,
        "purpose": upload.purpose,
        "status": upload.status,
        "file": None if file is None else shown_file(file),
    }
