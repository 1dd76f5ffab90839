"""Terms of what is made: the licence class that results from its parts, and what stands against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rung.artefacts.licences import output_terms, tightest, tightest_licence
from rung.errors import ConfigError
from rung.types import LICENCE_ORDER, LicenceClass


@dataclass(frozen=True)
class Part:
    """Something that rows are made of: a teacher, documents, seeds, or the base they will train.

    Attributes:
        writes: whether a model writes the rows, so that terms on its outputs apply.
    """

    kind: str
    name: str
    licence: str
    licence_class: LicenceClass
    writes: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.licence} ({self.licence_class})"


@dataclass(frozen=True)
class Terms:
    """What results: a class, the licence that decides it, reasons, and warnings."""

    licence_class: LicenceClass
    licence: str
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def settle(
    parts: Sequence[Part], *, wanted: LicenceClass | None = None, accepted: bool = False
) -> Terms:
    """Work out the terms of what is made of these parts.

    Args:
        wanted: class that must not be exceeded. accepted: the user may train on these outputs.

    Raises:
        ConfigError: for a teacher whose outputs must not be trained on, unless `accepted`, and for a
            class tighter than `wanted`; naming every part that stands in the way.
    """
    problems, warnings = [], []
    for part in parts:
        verdict, words = output_terms(part.licence) if part.writes else ("allowed", "")
        if verdict == "forbidden" and not accepted:
            problems.append(f"{part}: {words}: choose another teacher, or say --accept-terms")
        elif verdict != "allowed":
            warnings.append(f"{part}: {words}")
        if part.licence_class == "unknown":
            warnings.append(f"{part}: nobody has said what it may be used for")
        if wanted is not None and _rank(part.licence_class) > _rank(wanted):
            problems.append(f"{part} is tighter than --licence-class {wanted}")
    if problems:
        raise ConfigError("; ".join(dict.fromkeys(problems)))
    return Terms(
        tightest(part.licence_class for part in parts),
        _deciding(parts),
        tuple(str(part) for part in parts),
        tuple(dict.fromkeys(warnings)),
    )


def _deciding(parts: Sequence[Part]) -> str:
    """The licence of the part that decides the class."""
    group = tightest(part.licence_class for part in parts)
    return tightest_licence(part.licence for part in parts if part.licence_class == group)


def _rank(group: LicenceClass) -> int:
    return LICENCE_ORDER.index(group)
