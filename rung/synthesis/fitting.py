"""Checks of a synthesis before anything is spent: settings that fit each other, and licences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rung.artefacts.licences import classify
from rung.data.dataset import Dataset
from rung.errors import ConfigError
from rung.synthesis import kinds, terms
from rung.synthesis.kinds.base import Kind
from rung.synthesis.knobs import SynthKnobs
from rung.synthesis.teacher import Teacher


def kind_of(knobs: SynthKnobs) -> Kind:
    """Find the kind of rows that settings ask for, and check that they fit it.

    Raises:
        ConfigError: for an unknown kind, and for settings that do not fit each other.
    """
    kind = kinds.get(knobs.kinds or kinds.usual(bool(knobs.documents)))
    if kind.from_documents and not knobs.documents:
        raise ConfigError(f"--kinds {kind.name} needs --documents, a folder")
    if knobs.documents and not kind.from_documents:
        raise ConfigError("--documents are for --kinds questions: leave one of both out")
    if knobs.labels and not kind.labelled:
        raise ConfigError("--labels are for --kinds labels: leave one of both out")
    if not all(label.strip() for label in knobs.labels):
        raise ConfigError("--labels holds an empty label: leave it out, or name it")
    if knobs.share and len(knobs.share) != len(knobs.teacher):
        raise ConfigError(
            f"--share is given {len(knobs.share)} times for {len(knobs.teacher)} teachers"
        )
    if knobs.min_words > knobs.max_words:
        raise ConfigError("--min-words is above --max-words")
    return kind


def terms_of(
    teachers: Sequence[Teacher],
    knobs: SynthKnobs,
    seeds: Dataset | None = None,
    base: terms.Part | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> terms.Terms:
    """Work out the terms of the rows, and tell what to look at in them and in what they will train.

    Args:
        base: what is to be trained on the rows, whose licence counts for the checks.

    Raises:
        ConfigError: for licences that stand against it, naming every one.
    """
    parts = [terms.Part("teacher", t.name, t.licence, t.licence_class, writes=True) for t in teachers]
    if seeds is not None and (group := classify(seeds.licence)) != "unknown":
        parts.append(terms.Part("seeds", seeds.name, seeds.licence, group))
    every = [*parts, base] if base is not None else parts
    settled = terms.settle(every, wanted=knobs.wanted, accepted=knobs.accept_terms)
    for warning in settled.warnings:
        note(warning)
    return terms.settle(parts, accepted=True)
