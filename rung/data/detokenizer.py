"""Token ids to text, one at a time, never half a character."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from typing import Any

REPLACEMENT = "�"


class Decoder:
    """Turns a stream of ids into a stream of text.

    A character of several bytes may be spread over several tokens; text that ends in an incomplete
    one is held back until it is whole. Pushes and the final flush join to the decoding of all ids.
    The window method is that of Hugging Face's text-generation-inference.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._prefix = 0  # where the window begins: context for tokens that depend on the one before
        self._read = 0  # up to here everything was given out

    def push(self, token: int) -> str:
        """The text that became certain with this token; may be empty."""
        self._ids.append(token)
        text = self._new()
        if text.endswith(REPLACEMENT):
            return ""
        return self._give(text)

    def flush(self) -> str:
        """What was held back, at the end of the stream."""
        return self._give(self._new())

    def _new(self) -> str:
        before = self._decode(self._ids[self._prefix : self._read])
        return self._decode(self._ids[self._prefix :])[len(before) :]

    def _give(self, text: str) -> str:
        if text:  # a window of special tokens alone decodes to nothing and gives no context
            self._prefix, self._read = self._read, len(self._ids)
        return text


def decoded(tokenizer: Any, ids: Sequence[int], shown: Collection[int] = ()) -> str:
    """The text of ids, without special tokens but those of `shown`."""
    found = []
    for tag, group in groupby(ids, lambda number: number if number in shown else None):
        found.append(
            tokenizer.decode(
                list(group), skip_special_tokens=tag is None, clean_up_tokenization_spaces=False
            )
        )
    return "".join(found)
