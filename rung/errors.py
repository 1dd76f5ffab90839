"""The errors a user can cause or meet. Each message is one line that says what to do.

The command line prints the message to stderr and exits with `exit_code`; the server answers
`http_status`. Anything that is not a RungError is a bug in Rung and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

MANY = 20  # names in a message


class RungError(Exception):
    """A fault the user can mend. `str(error)` is one line without a trailing full stop needed."""

    exit_code = 2
    http_status = 400

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class ConfigError(RungError):
    """A knob is unknown, out of range, or does not fit the others."""


class DataError(RungError):
    """The data cannot be read, or some of its rows cannot be used."""


class BaseNotFound(RungError):
    """The base model does not exist where the name points."""

    http_status = 404


class ModelNotFound(RungError):
    """No model of that name is in the store."""

    http_status = 404


class ArtefactError(RungError):
    """A folder on disk is damaged, unsafe, or does not belong to this base."""


class MethodMisfit(RungError):
    """The method cannot be used with this base, objective or data."""


class TrainingStopped(RungError):
    """Training met something it cannot go on from, after keeping the last good weights."""

    exit_code = 1


class StoreError(RungError):
    """The store is locked, full or gone."""

    exit_code = 1
    http_status = 503


class StoreBroken(StoreError):
    """The store is in a state that trying again does not mend: damaged, read-only, of a newer Rung."""

    http_status = 500


class PlaceError(StoreError):
    """RUNG_HOME or RUNG_STORE names a place where nothing can be kept."""

    exit_code = 2


class Interrupted(BaseException):
    """The user asked to stop; what was finished is kept. No fault, so no RungError."""


class PeerLost(Interrupted):
    """Another process of the same training is gone, so that this one cannot go on."""


class ProcessLost(RungError):
    """A process of a training was killed, and the training has ended with it."""

    exit_code = 1


class OutOfTime(RungError):
    """Work was not done when its time was over."""

    exit_code = 1


class Busy(RungError):
    """A queue is full: try again later."""

    http_status = 429


def one_line(problems: Sequence[str], most: int = 10) -> str:
    """Join problems so that all of them are reported at once, on one line.

    After `most` of them the rest is counted.
    """
    shown = "; ".join(problems[:most])
    rest = len(problems) - most
    return f"{shown}; and {rest} more" if rest > 0 else shown


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: `, did you mean 'x'?` or the list of known ones.

    Empty where the name itself is known. Of a long list its beginning is told.
    """
    names = sorted(set(known))
    if name in names:  # known, and wrong for another reason: nothing was mistyped
        return ""
    best = max(names, key=lambda one: _likeness(name, one), default="")
    # Flags are words, of which many are half alike.
    if best and _likeness(name, best) >= (0.6 if name.startswith("-") else 0.5):
        return f", did you mean '{best}'?"
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return f", known: {', '.join(names[:MANY])}{more}" if names else ""


def _likeness(name: str, known: str) -> float:
    """From 0 to 1. Who knows only how a name begins has not mistyped the rest of it."""
    name, known = (one.lower().lstrip("-") for one in (name[:100], known))  # of flags, the words
    whole = difflib.SequenceMatcher(None, name, known).ratio()
    start = difflib.SequenceMatcher(None, name, known[: len(name) + 1]).ratio()
    return max(whole, 0.9 * start if start >= 0.7 else 0.0)
