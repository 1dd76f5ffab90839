"""Knobs of a mapping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rung.config import knob
from rung.errors import ConfigError


@dataclass
class MapKnobs:
    """What is known, how good is good enough, and what is written."""

    group: ClassVar[str] = "mapping"

    pairs: list[str] = knob(
        [], "Known pairs: a table with the columns left and right, right empty for 'none of these'; "
        "give it again to add a reviewed one, which goes before.", metavar="FILE",
    )  # fmt: skip
    bar: str | None = knob(
        None, "Stop at the cheapest rung that reaches it: accuracy, f1, precision, recall or coverage, "
        "as in f1=0.8.", metavar="METRIC=FIGURE",
    )  # fmt: skip
    only: list[str] = knob([], "Try these rungs alone.", metavar="RUNG", names=True)
    all: bool = knob(False, "Try every rung, also above the first that clears the bar.")
    many_to_one: bool = knob(False, "Let several left records have the same right one.")
    left_id: str | None = knob(None, "Column of the left ids; id, else the first, by default.")
    right_id: str | None = knob(None, "Column of the right ids; id, else the first, by default.")
    left_name: str | None = knob(None, "Column of the left names; name, else the id's, by default.")
    right_name: str | None = knob(None, "Column of the right names; name, else the id's, by default.")
    group_by: str | None = knob(
        None, "Column of the left table whose rows of one value are never parted between training and "
        "test.", metavar="COLUMN",
    )  # fmt: skip
    validation: float = knob(0.3, "Share of the known pairs that selects.", least=0.05, most=0.8)
    test: float = knob(0.3, "Share of the known pairs that measures.", least=0.05, most=0.8)
    candidates: int = knob(20, "Right records that each left one may become.", least=2, most=200)
    sure: float = knob(0.9, "Confidence from which a pair counts as sure.", least=0, most=1)
    threshold: float | None = knob(
        None, "Confidence below which it is none of these; chosen on validation by default.",
        least=0, most=1,
    )  # fmt: skip
    encoder: str = knob("minilm", "The sentence encoder: a name, folder or Hub id.", metavar="SPEC")
    reranker: str | None = knob(
        None, "A base or a model that chooses among the best candidates; without it none is asked.",
        metavar="NAME",
    )  # fmt: skip
    shots: int = knob(4, "Known pairs that the reranker is shown.", least=0, most=32)
    reranked: int = knob(5, "Candidates that the reranker chooses among.", least=2, most=20)
    seed: int = knob(0, "Seed of the split and of what is sampled.", least=0, most=2**31)

    def __post_init__(self) -> None:
        if self.validation + self.test > 0.9:
            raise ConfigError("--validation and --test leave too few pairs to learn from: 0.9 at most")
        if self.reranked > self.candidates:
            raise ConfigError(f"--reranked is {self.reranked}, --candidates only {self.candidates}")
