"""N-gram speculation: drafts what comes next from what the text says already (prompt look-up decoding).

An answer that repeats its prompt, as summaries, edits of code and extractions do, is drafted by finding
where its last tokens stood before: what followed them there is likely to follow again. A draft costs
nothing to make; verifying it costs little more than one token as long as few requests decode, since
then nearly all of a step is reading the weights.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

NGRAM = 3  # last tokens that must stand before as well
MAX_DRAFT = 6  # maximum number of tokens of a draft
MAX_PAUSE = 32  # maximum number of tokens without a draft after drafts that were wrong


class NgramSpeculation:
    """Drafts of one request, whose success decides when it drafts again.

    Args:
        max_draft: maximum number of tokens of a draft.
    """

    def __init__(self, max_draft: int = MAX_DRAFT) -> None:
        self.max_draft = max_draft
        self._wait = 0  # tokens until the next draft
        self._pause = 1

    def draft(self, ids: Sequence[int], limit: int) -> list[int]:
        """Draft at most `limit` tokens that may follow, or none; counts down a pause."""
        if self._wait > 0:
            self._wait -= 1
            return []
        return following(ids, min(limit, self.max_draft))

    def verified(self, right: int) -> None:
        """Learn how many tokens of a draft were right: if none, the next comes later."""
        self._pause = 1 if right else min(2 * self._pause, MAX_PAUSE)
        self._wait = 0 if right else self._pause


def following(ids: Sequence[int], limit: int) -> list[int]:
    """Return at most `limit` tokens that followed the last NGRAM ones where they stood before."""
    if limit < 1 or len(ids) <= NGRAM:
        return []
    text = array("I", ids)
    size = text.itemsize
    whole, last = text.tobytes(), text[-NGRAM:].tobytes()
    at = whole.rfind(last, 0, len(whole) - size)
    while at > 0 and at % size:  # found across the border of two tokens
        at = whole.rfind(last, 0, at + len(last) - 1)
    if at < 0:
        return []
    first = at // size + NGRAM
    return [text[first + i % (len(text) - first)] for i in range(limit)]  # a short cycle goes on
