"""Prefix cache: keys and values of texts read before, so that a shared beginning is computed once.

A tree of pages, one root per slot: another adapter computes other keys and values for the same text,
and a slot never comes back with other weights. A page holds PAGE consecutive tokens of all layers. At
admission a request's known pages are copied into its lane, where decoding finds everything in one
piece; on a CPU that is faster than attending page by page, and the copy costs less than one step.
What was not used for longest goes first, from the ends of the tree.

After RadixAttention (SGLang, arXiv 2312.07104).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from rung.engine.kv_cache import PageTensors

PAGE = 8  # tokens of a page


@dataclass
class PrefixPage:
    """PAGE tokens of a text, and what followed them in the texts seen.

    Attributes:
        size: bytes. used: when it was asked for last, by the cache's own clock.
    """

    tensors: PageTensors
    size: int = 0
    used: int = 0
    parent: PrefixPage | None = None
    key: tuple[int, ...] = ()
    after: dict[tuple[int, ...], PrefixPage] = field(default_factory=dict)


class PrefixCache:
    """Tree of pages, the least recently used of which go first.

    Attributes:
        size: bytes that are kept.
    """

    def __init__(self) -> None:
        self.size = 0
        self._roots: dict[int, PrefixPage] = {}
        self._clock = itertools.count(1)

    def __len__(self) -> int:
        """Count the pages that are kept."""
        return sum(1 for _ in self._pages())

    def find(self, slot: int, ids: Sequence[int]) -> list[PrefixPage]:
        """Find the pages of the longest known beginning, the slot's front page first; may be none."""
        page = self._roots.get(slot)
        found: list[PrefixPage] = []
        now = next(self._clock)
        at = 0
        while page is not None:
            page.used = now
            found.append(page)
            page = page.after.get(tuple(ids[at : at + PAGE]))
            at += PAGE
        return found

    def add(
        self, slot: int, ids: Sequence[int], begin: int, pages: list[PageTensors], front: PageTensors
    ) -> None:
        """Keep pages of a text.

        Args:
            ids: the text. begin: the page of it that `pages` begin at; those before must be known.
            front: what the slot's adapter puts in front of every text; empty where nothing.
        """
        page = self._roots.get(slot)
        if page is None:
            page = self._roots[slot] = PrefixPage(front, _size(front))
            self.size += page.size
        now = page.used = next(self._clock)
        for i in range(begin):
            page = page.after[tuple(ids[i * PAGE : (i + 1) * PAGE])]
            page.used = now
        for i, tensors in enumerate(pages, begin):
            key = tuple(ids[i * PAGE : (i + 1) * PAGE])
            page.after[key] = PrefixPage(tensors, _size(tensors), now, page, key)
            page = page.after[key]
            self.size += page.size

    def forget(self, slot: int) -> None:
        """Drop all that a slot computed."""
        root = self._roots.pop(slot, None)
        if root is not None:
            self.size -= sum(p.size for p in _below(root))

    def clear(self) -> None:
        """Drop everything."""
        self._roots.clear()
        self.size = 0

    def shrink(self, limit: int) -> None:
        """Drop what was not used for longest until at most `limit` bytes are kept."""
        if self.size <= limit:
            return
        # A page is used whenever one behind it is, so by age, then from the ends, leaves come first.
        for page in sorted(self._leaves_first(), key=lambda p: p.used):
            if self.size <= limit:
                return
            if page.after:
                continue
            self.size -= page.size
            if page.parent is not None:
                del page.parent.after[page.key]
            else:
                self._roots = {s: r for s, r in self._roots.items() if r is not page}

    def _leaves_first(self) -> list[PrefixPage]:
        return list(self._pages())[::-1]

    def _pages(self) -> itertools.chain[PrefixPage]:
        return itertools.chain.from_iterable(_below(root) for root in self._roots.values())


def _below(root: PrefixPage) -> list[PrefixPage]:
    """List a page and everything behind it; a page stands before those behind it."""
    found = [root]
    for page in found:
        found.extend(page.after.values())
    return found


def _size(tensors: PageTensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
