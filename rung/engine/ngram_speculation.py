"""Guessing what comes next from what a text has said before (prompt look-up decoding).

An answer that repeats its prompt, as summaries, edits of code and extractions do, is guessed by finding
where its last tokens stood before: what followed them there is likely to follow again. A guess costs
nothing to make; reading it costs little more than one token as long as few requests decode, since then
nearly all of a step is reading the weights.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

AFTER = 3  # last tokens that must stand before as well
MOST = 6  # tokens of a guess
PAUSE = 32  # tokens at most without a guess after guesses that were wrong


class NgramSpeculation:
    """What one request has guessed so far, which decides whether it guesses again.

    Attributes:
        guessed, right: tokens.
    """

    def __init__(self) -> None:
        self.guessed = self.right = 0
        self._wait = 0  # tokens until the next guess
        self._pause = 1

    def guess(self, ids: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow, or none."""
        if self._wait > 0:
            self._wait -= 1
            return []
        return following(ids, min(most, MOST))

    def outcome(self, guessed: int, right: int) -> None:
        """Learn what became of a guess: after wrong ones the next comes later and later."""
        self.guessed += guessed
        self.right += right
        self._pause = 1 if right else min(2 * self._pause, PAUSE)
        self._wait = 0 if right else self._pause


def following(ids: Sequence[int], most: int) -> list[int]:
    """What followed the last AFTER tokens where they stood before, at most so many; may be none."""
    if most < 1 or len(ids) <= AFTER:
        return []
    text = array("I", ids)
    size = text.itemsize
    whole, last = text.tobytes(), text[-AFTER:].tobytes()
    at = whole.rfind(last, 0, len(whole) - size)
    while at > 0 and at % size:  # found across the border of two tokens
        at = whole.rfind(last, 0, at + len(last) - 1)
    if at < 0:
        return []
    first = at // size + AFTER
    return [text[first + i % (len(text) - first)] for i in range(most)]  # a short cycle goes on
