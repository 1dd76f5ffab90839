"""Stop strings: found across the borders of tokens, never echoed."""

from __future__ import annotations

from collections.abc import Iterable


class StopStrings:
    """Filter that passes text on until one of the stop texts is complete.

    Text that may be the beginning of a stop text is held back. What comes out does not depend on how
    the text was cut into pieces: of several stop texts the one that is complete first counts.

    Args:
        texts: the stop texts, none empty.
    """

    def __init__(self, texts: Iterable[str]):
        self._texts = tuple(texts)
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """Take text -> what is certain not to belong to a stop text."""
        if not self._texts:
            return text
        held = self._held + text
        found = [(at + len(s), at) for s in self._texts if (at := held.find(s)) >= 0]
        if found:
            self.hit, self._held = True, ""
            return held[: min(found)[1]]
        keep = max(_overlap(held, s) for s in self._texts)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """Return what was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Measure the longest end of `text` that is a proper beginning of `stop`."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0
