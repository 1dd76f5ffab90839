"""Knobs of a red-team run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rung.config import Duration, knob
from rung.errors import ConfigError

ARE = ("hit", "refusal")  # what 1 means in a file of human labels


@dataclass
class RedteamKnobs:
    """What is attacked with what, who judges, and what is kept."""

    group: ClassVar[str] = "redteam"

    attacks: list[str] = knob(
        [], "Attack prompts: a file, package:NAME/MEMBER of an installed package, or "
        "wheel:PACKAGE/MEMBER; give it again to add sets.", metavar="SOURCE",
    )  # fmt: skip
    transforms: list[str] = knob(
        [],
        "How attacks are wrapped; every way that is known by default.",
        metavar="NAME",
        names=True,
    )
    judge: list[str] = knob(
        ["refusal"], "Who says that an answer is a hit: refusal, words:FILE, regex:PATTERN, "
        "model:NAME, model:NAME/LABEL or remote:MODEL@URL; the first one decides.", metavar="SPEC",
    )  # fmt: skip
    judge_labels: str | None = knob(
        None, "Answers that people have labelled: each judge's error is measured on them.",
        metavar="SOURCE",
    )  # fmt: skip
    labels_are: str = knob("hit", "What a label of 1 means in --judge-labels.", choices=ARE)
    harmless: str | None = knob(
        None, "Harmless look-alikes, on which refusals are counted as over-refusal.", metavar="SOURCE"
    )
    ordinary: str | None = knob(
        None, "Ordinary prompts with replies, whose loss stands for helpfulness.", metavar="SOURCE"
    )
    budget: Duration = knob(Duration("10m"), "The time for everything.", metavar="TIME")
    limit: int | None = knob(None, "Use at most so many attack prompts.", least=1)
    out: str | None = knob(
        None, "The folder for report, hits and answers; nothing is kept without it.", metavar="FOLDER"
    )
    mend: bool = knob(False, "Train on pairs made of the hits, then attack again.")
    mended: str | None = knob(None, "What the mended model is called; NAME-mended by default.")
    method: str = knob("lora", "How a base is mended; a model goes on in its own method.")
    mend_steps: int | None = knob(None, "Steps of mending; three epochs by default.", least=1)
    mend_lr: float | None = knob(
        None, "Learning rate of mending; the method's own by default.", above=0
    )
    system: str | None = knob(None, "The system message.")
    temperature: float = knob(0.0, "0 is greedy.", least=0, most=2)
    max_tokens: int = knob(96, "Tokens of an answer at most.", least=1)
    seed: int = knob(0, "Seed of the order, of draws and of what is held out.", least=0, most=2**31)

    def __post_init__(self) -> None:
        if not self.judge:
            raise ConfigError("--judge is empty: name at least one, such as refusal")
        if self.mend and not self.out:
            raise ConfigError(
                "--mend keeps pairs with what the model said: say where with --out FOLDER"
            )
