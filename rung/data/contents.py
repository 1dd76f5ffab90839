"""Contents of messages: text, or parts of text, thoughts and pictures, as APIs and files have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rung.data.format_strings import Missing
from rung.errors import DataError
from rung.types import Picture

PICTURES = ("image_url", "input_image", "image")  # types of parts, in OpenAI's two APIs and Anthropic's
MAX_PICTURES = 16  # of one message
THOUGHTS = ("thinking", "reasoning")  # types of parts


def content_of(value: Any) -> str:
    """The text of a message's content: a string, or a list of parts as in OpenAI's API.

    Raises:
        Missing: when there is no text in it, or something beside text.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return "".join(_part(p) for p in value)
    raise Missing(f"a message whose content is no text: {json.dumps(value, default=str)[:60]}")


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping):
        kind = str(part.get("type", "text"))
        if kind in (*PICTURES, *THOUGHTS):  # read apart
            return ""
        text = part.get("refusal") if kind == "refusal" else part.get("text")
        if kind in ("text", "input_text", "output_text", "refusal") and isinstance(text, str):
            return text
        if kind not in ("text", "refusal"):
            raise Missing(f"content of type '{kind[:40]}', and only text can be read")
    raise Missing(f"a message whose content is no text: {json.dumps(part, default=str)[:60]}")


def pictures_of(value: Any) -> tuple[Picture, ...]:
    """The pictures of a message's content, which are `data:` URLs; nothing is ever fetched.

    Raises:
        Missing: for another address, or a picture that cannot be read.
    """
    parts = value if isinstance(value, (list, tuple)) else ()
    found = [p for p in parts if isinstance(p, Mapping) and str(p.get("type")) in PICTURES]
    if len(found) > MAX_PICTURES:
        raise Missing(f"{len(found)} pictures in one message, at most {MAX_PICTURES} are read")
    return tuple(_picture(part, n) for n, part in enumerate(found, 1))


def picture_offsets(value: Any) -> tuple[int, ...]:
    """How many characters of a content's text stand in front of each of its pictures.

    Raises:
        Missing: as `content_of`.
    """
    offsets, at = [], 0
    for part in value if isinstance(value, (list, tuple)) else ():
        if isinstance(part, Mapping) and str(part.get("type")) in PICTURES:
            offsets.append(at)
        else:
            at += len(_part(part))
    return tuple(offsets)


def _picture(part: Mapping[str, Any], number: int) -> Picture:
    from rung.pictures import reading

    name = f"picture {number}"
    url = _source(part.get("source"), name) if part.get("type") == "image" else _url(part, name)
    try:
        return reading.picture(reading.of_url(url, name), name)[0]
    except DataError as fault:
        raise Missing(str(fault)) from None


def _url(part: Mapping[str, Any], name: str) -> str:
    told = part.get("image_url")
    url = told.get("url") if isinstance(told, Mapping) else told
    if not isinstance(url, str):
        raise Missing(f"{name} has no 'image_url' with a data: URL")
    return url


def _source(told: Any, name: str) -> str:
    """The address of a picture in Anthropic's words: base64 beside its media type, or a URL."""
    said = told if isinstance(told, Mapping) else {}
    wanted = {"base64": ("media_type", "data"), "url": ("url",)}.get(str(said.get("type")))
    if wanted is None:
        raise Missing(f"{name} has no 'source' of type 'base64' or 'url'")
    for field in wanted:
        if not isinstance(said.get(field), str):
            raise Missing(f"the source of {name} has no '{field}'")
    if said["type"] == "url":
        return str(said["url"])
    return f"data:{said['media_type']};base64,{said['data']}"


def thoughts_of(value: Any) -> str:
    """The thoughts among the parts of a content."""
    parts = value if isinstance(value, (list, tuple)) else ()
    found = [p for p in parts if isinstance(p, Mapping) and p.get("type") in THOUGHTS]
    return "\n".join(content_of(p.get(str(p["type"]), p.get("text"))) for p in found)
