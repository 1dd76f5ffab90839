"""The settings of a climb."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rung.config import knob
from rung.ladder.budget import Budget


@dataclass
class ClimbKnobs:
    """How far to climb, and what counts as cost."""

    group: ClassVar[str] = "climb"

    bar: str | None = knob(
        None,
        "Stop at the cheapest rung that clears it, such as accuracy=0.84 or perplexity<=12.",
        metavar="BAR", foreign=("target", "threshold", "goal"),
    )  # fmt: skip
    budget: Budget = knob(
        Budget("20m"),
        "What all rungs share: time such as 90s, 20m or 1h, money such as 0.50usd (with --price), or "
        "energy such as 5wh (with --watts).",
        metavar="BUDGET",
    )
    all: bool = knob(False, "Try every rung that fits, whether the bar is cleared or not.")
    requests: int = knob(
        10000, "How many requests the winner is expected to answer; part of a rung's cost.", least=0
    )
    price: float | None = knob(
        None, "What an hour of this machine costs, to show money and to spend it.", least=0
    )
    watts: float | None = knob(
        None, "What this machine draws while it computes, for a budget in energy.", above=0
    )
    seeds: int = knob(1, "Repeat each rung's best settings with so many seeds.", least=1, most=20)
    trials: int = knob(3, "Settings to try on a rung, at most, where time allows.", least=1, most=100)
    only: list[str] = knob([], "Try these methods alone.", metavar="METHOD", names=True)
    skip: list[str] = knob([], "Leave these methods out.", metavar="METHOD", names=True)
    task: str | None = knob(
        None, "The kind of task; found from the replies by default.", metavar="KIND"
    )
    metric: str | None = knob(
        None, "What rungs are judged by; the bar's, or the task's own by default.", metavar="METRIC"
    )
    judge: str | None = knob(
        None, "Who judges answers for win_rate: model:NAME of a reward model or another reward, or the "
        "address of an OpenAI-compatible API.", metavar="SPEC|URL",
    )  # fmt: skip
    judge_model: str = knob("judge", "The judging model's name behind such an address.")
    second_judge: str | None = knob(
        None, "Another judge of the same answers, which no rung was trained or picked by: the verdict "
        "says where the two disagree.", metavar="SPEC|URL",
    )  # fmt: skip
    against: str = knob(
        "base", "What answers are held against: the base's own, or the data's better or worse reply.",
        choices=("base", "chosen", "rejected"),
    )  # fmt: skip
    workers: int = knob(
        1, "Attempts side by side, each in a process of its own that holds the base; more than one "
        "needs the extra 'cluster'.", least=1, most=1000,
    )  # fmt: skip
    cluster: str = knob(
        "local", "Where those processes are: on this machine, or ray://HOST:PORT of a Ray cluster.",
        metavar="local|ADDRESS",
    )  # fmt: skip
    validation_rows: int = knob(300, "Validation rows that rungs are chosen by, at most.", least=2)

    def __post_init__(self) -> None:
        self.budget = Budget(self.budget, self.price, self.watts)
        self.budget.check()
