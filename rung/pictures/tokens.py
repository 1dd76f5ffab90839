"""Picture tokens: ids beyond every vocabulary that stand for a picture among the tokens of a text.

A picture is as many consecutive ids as it has tokens. They follow from its digest, so equal pictures
have equal ids, and whatever goes by ids (tries, prefix pages) shares them as it shares words.
The first picture of a digest takes the number that the digest names, or the next one that is free; a
number is never given to another picture, so that what is kept of its ids stays true.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable

from rung.errors import DataError
from rung.types import Message, Picture

FIRST_ID = 1 << 24  # vocabularies end below it
MAX_TOKENS = 256  # of one picture
_NUMBERS = ((1 << 31) - FIRST_ID) // MAX_TOKENS  # pictures that ids of 32 bits can tell apart
MAX_PICTURES = _NUMBERS // 2  # of a process; nearly full, a free number would be far to find

_lock = threading.Lock()
_number_of: dict[str, int] = {}
_digest_of: dict[int, str] = {}
_known: dict[str, list[weakref.ref[Picture]]] = {}  # references that are alive, by digest


def ids_of(picture: Picture, count: int) -> range:
    """The ids of a picture of `count` tokens, the same for every count but for their end.

    The picture can be looked up by them (`picture_of`) as long as somebody holds it.

    Raises:
        ValueError: for more than MAX_TOKENS. DataError: when a process has met MAX_PICTURES pictures.
    """
    if not 0 < count <= MAX_TOKENS:
        raise ValueError(f"a picture has 1 to {MAX_TOKENS} tokens, not {count}")
    first = FIRST_ID + MAX_TOKENS * _number(picture)
    return range(first, first + count)


def _number(picture: Picture) -> int:
    digest = str(picture)
    with _lock:
        alive = [known for known in _known.get(digest, ()) if known() is not None]
        if all(known() is not picture for known in alive):
            alive.append(weakref.ref(picture))
        _known[digest] = alive
        if digest in _number_of:
            return _number_of[digest]
        if len(_number_of) >= MAX_PICTURES:
            raise DataError(f"this process has met {MAX_PICTURES:,} pictures, its most: start it again")
        number = int(digest[:15], 16) % _NUMBERS
        while number in _digest_of:
            number = (number + 1) % _NUMBERS
        _number_of[digest], _digest_of[number] = number, digest
        return number


def number_of(token: int) -> int:
    """The number of the picture that an id is of."""
    return (token - FIRST_ID) // MAX_TOKENS


def place_of(token: int) -> int:
    """Which of its picture's tokens an id is, from 0."""
    return (token - FIRST_ID) % MAX_TOKENS


def picture_of(number: int) -> Picture:
    """The picture of a number. Raises KeyError when nobody holds it any more."""
    with _lock:
        for known in _known.get(_digest_of[number], ()):
            if (found := known()) is not None:
                return found
    raise KeyError(number)


def of_messages(messages: Iterable[Message], count: int) -> set[int]:
    """All ids of the pictures of a conversation, each of `count` tokens; none where that is 0."""
    if not count:
        return set()
    return {i for m in messages for p in m.get("pictures", ()) for i in ids_of(p, count)}


def words(ids: Iterable[int]) -> list[int]:
    """The ids that are of a vocabulary, in their order."""
    return [i for i in ids if i < FIRST_ID]
