"""Checks of clients' regular expressions: refuses those that are of no use and do harm.

A repeat directly inside a repeat, `(a+)+`, means the same as one of them, and takes exponential time
in the backtracking matchers with which clients check what they get. Whatever else is wrong with an
expression the library that compiles it says.
"""

from __future__ import annotations

from dataclasses import dataclass

from rung.errors import RungError

MAX_CHARACTERS = 4_000  # maximum length of a pattern
REPEATS = "*+"  # quantifiers without an upper bound


class ConstraintError(RungError):
    """Grammar that is malformed, too large, or that a model cannot follow."""


@dataclass
class _Group:
    """State of an open group: atoms of the present alternative, and what the last one is."""

    atoms: int = 0
    repeated: bool = False  # the last atom is repeated without end
    lone: bool = False  # some alternative is one repeated atom and nothing else

    def end_alternative(self) -> None:
        self.lone |= self.atoms == 1 and self.repeated
        self.atoms, self.repeated = 0, False


def check_pattern(pattern: str) -> None:
    """Refuse a pattern that is too long, or repeats a repeat.

    Raises:
        ConstraintError: naming the reason.
    """
    if len(pattern) > MAX_CHARACTERS:
        raise ConstraintError(
            f"a pattern has {len(pattern)} characters, which is more than {MAX_CHARACTERS}"
        )
    if repeats_a_repeat(pattern):
        raise ConstraintError(
            f"the pattern '{pattern[:60]}' repeats what is a repeat already: write (a+)+ as a+"
        )


def repeats_a_repeat(pattern: str) -> bool:
    """Whether a group that is nothing but an endless repeat is itself repeated without end."""
    groups, at, closed = [_Group()], 0, False
    while at < len(pattern):
        character, size = pattern[at], _size(pattern, at)
        if size == 0 and _endless(pattern, at):
            if closed:
                return True
            groups[-1].repeated = True
            size = _length(pattern, at)
        elif character == "(":
            groups.append(_Group())
            size = _opening(pattern, at)
        elif character == ")":
            group = groups.pop() if len(groups) > 1 else groups[0]
            group.end_alternative()
            closed = group.lone
            outer = groups[-1]
            outer.atoms, outer.repeated = outer.atoms + 1, closed
            at += 1
            continue
        elif character == "|":
            groups[-1].end_alternative()
            size = 1
        elif character in "^$":
            size = 1
        elif size == 0:  # a bounded repeat
            size = _length(pattern, at)
        else:
            groups[-1].atoms, groups[-1].repeated = groups[-1].atoms + 1, False
        closed = False
        at += size
    return False


def _size(pattern: str, at: int) -> int:
    """Count the characters of the atom that begins here; 0 where a quantifier does."""
    character = pattern[at]
    if character in "*+?" or (character == "{" and "}" in pattern[at:]):
        return 0
    if character == "\\":
        return 2
    if character == "[":
        return _class(pattern, at)
    return 1


def _class(pattern: str, at: int) -> int:
    """Count the characters of a class in brackets, the brackets included."""
    end = at + 1
    if pattern[end : end + 1] == "^":
        end += 1
    if pattern[end : end + 1] == "]":  # first in a class it stands for itself
        end += 1
    while end < len(pattern) and pattern[end] != "]":
        end += 2 if pattern[end] == "\\" else 1
    return end + 1 - at


def _endless(pattern: str, at: int) -> bool:
    """Whether the quantifier here has no upper bound."""
    return pattern[at] in REPEATS or pattern[at : at + _length(pattern, at)].rstrip("?+").endswith(",}")


def _length(pattern: str, at: int) -> int:
    """Count the characters of a quantifier, with what makes it lazy."""
    end = pattern.index("}", at) + 1 if pattern[at] == "{" else at + 1
    return end - at + (pattern[end : end + 1] in ("?", "+"))


def _opening(pattern: str, at: int) -> int:
    """Count the characters of what opens a group, such as `(?:` or `(?P<name>`."""
    if pattern[at + 1 : at + 2] != "?":
        return 1
    for end in range(at + 2, len(pattern)):
        if pattern[end] in ":>=!":
            return end + 1 - at
    return 2
