"""Settings of the synthesis of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rung.config import knob
from rung.types import LICENCE_ORDER, LicenceClass


@dataclass(kw_only=True)
class SynthKnobs:
    """What is to be written, by whom, and what rows must hold to be kept."""

    group: ClassVar[str] = "synthesis"

    examples: int = knob(60, "How many rows are wanted.", least=1, foreign=("num_rows", "num_samples"))
    teacher: list[str] = knob(
        ["smollm2-135m"],
        "Who writes: a model, a base, or MODEL@URL behind an OpenAI-compatible API.",
        metavar="MODEL",
    )
    share: list[float] = knob(
        [], "Shares of several teachers, in their order; equal by default.", above=0
    )
    kinds: str | None = knob(
        None,
        "What rows are: replies, labels, pairs, prompts, or what another package adds; questions where "
        "--documents are given.",
        metavar="KIND",
    )
    documents: str | None = knob(
        None, "A folder of txt, md, html and pdf files that questions are asked of.", metavar="FOLDER"
    )
    seeds: str | None = knob(
        None, "Rows of your own that show what is wanted; none of them is repeated.", metavar="SOURCE"
    )
    against: str | None = knob(
        None, "Rows that must not leak into these, such as a benchmark's test part.", metavar="SOURCE"
    )
    plan: str | None = knob(
        None,
        "A YAML file of topics and labels; where it is missing it is written, to be edited first.",
        metavar="FILE",
    )
    topics: int | None = knob(
        None, "How many topics to plan; by the number of rows by default.", least=1
    )
    labels: list[str] = knob([], "The labels of --kinds labels; planned by the teacher by default.")
    temperature: float = knob(0.8, "0 is greedy.", least=0, most=2)
    top_p: float = knob(0.95, "Share of probability to draw from.", above=0, most=1)
    seed: int = knob(0, "One seed gives one data set.", least=0, most=2**31 - 1)
    similarity: float = knob(
        0.7, "Rows alike by this share of their character 5-grams are duplicates.", above=0, most=1
    )
    min_words: int = knob(1, "Words of a text at least.", least=1)
    max_words: int = knob(80, "Words of a text at most.", least=1)
    language: str = knob(
        "as-described",
        "The script that texts are written in: that of the description, or any.",
        choices=("as-described", "any"),
    )
    judge: str | None = knob(
        None, "Who rates rows from 1 to 5; no rating by default. MODEL or MODEL@URL.", metavar="MODEL"
    )
    min_score: int = knob(3, "The rating that a row needs.", least=1, most=5)
    teacher_licence: str | None = knob(
        None, "Licence of teachers behind an API, such as apache-2.0; closed by default."
    )
    licence_class: str | None = knob(
        None,
        "What is made must not fall into a tighter class than this.",
        choices=LICENCE_ORDER,
    )
    accept_terms: bool = knob(
        False, "You may train on what these teachers write, whatever their licence says commonly."
    )
    key_variable: str = knob("OPENAI_API_KEY", "The environment variable that holds an API's key.")
    price_in: float = knob(0.0, "Price of a million tokens read behind an API.", least=0)
    price_out: float = knob(0.0, "Price of a million tokens written behind an API.", least=0)
    max_money: float | None = knob(None, "End when an API has cost so much.", above=0)
    at_once: int = knob(8, "Requests to an API on their way together.", least=1, most=256)

    timeout: float = knob(120.0, "Seconds for one answer of an API.", above=0)

    @property
    def wanted(self) -> LicenceClass | None:
        """The class that must not be exceeded."""
        return next((group for group in LICENCE_ORDER if group == self.licence_class), None)
