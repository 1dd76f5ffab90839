"""What an objective must say. Everything else about it is its own business."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from rung.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from rung.data import Problem, Template
    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.forward.policy import Loss, Policy
    from rung.forward.trie import Sequence as Tokens
    from rung.methods.base import Method
    from rung.types import Example, Pair


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """What an objective made of one example. Its sequences are never split between micro-batches.

    Attributes:
        sequences: one for a reply, two for a pair, several for a group.
        weight: what the row counts in the mean of a step.
        extra: what the loss needs beside the tokens, such as reference log-probabilities.
    """

    sequences: tuple[Tokens, ...]
    weight: float
    origin: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> np.ndarray:
        """Token ids (n,) of the first sequence, by which rows are sorted and packed."""
        return self.sequences[0].ids

    @property
    def key(self) -> bytes:
        """Sorts rows depth first."""
        return self.sequences[0].key

    @cached_property
    def tokens(self) -> int:
        """Tokens that the row computes alone: what its sequences share counts once."""
        from rung.forward.packing import trie_tokens

        return trie_tokens([s.ids for s in self.sequences])

    @cached_property
    def supervised(self) -> int:
        """Tokens to be predicted, of all its sequences."""
        return sum(int(s.supervised.sum()) for s in self.sequences if s.supervised is not None)


class RowSource(Protocol):
    """Gives the rows of every step: a function of seed and step, and of the weights at most.

    Attributes:
        fixed: every epoch has the same rows, so that what is frozen may be computed for them once.
        per_epoch: steps in an epoch.
    """

    @property
    def fixed(self) -> bool: ...
    @property
    def per_epoch(self) -> int: ...

    def steps(self, epochs: float, most: int | None) -> int:
        """How many steps a training has, `most` where that is fewer."""
        ...

    def rows(self, step: int) -> list[Row]:
        """The rows of a step, counted from 0 over all epochs."""
        ...

    def measured(self, rows: Sequence[Row], slot: int) -> Sequence[Row]:
        """What a slot is measured by on held-out rows: the rows, or those with answers of its own."""
        ...

    def state(self, step: int) -> dict[str, Tensor]:
        """What a checkpoint must hold beside the weights of a step for the next rows to be the same."""
        ...

    def restore(self, state: Mapping[str, Tensor], step: int) -> None:
        """Take up what `state` gave when `step` steps were done."""

    def close(self) -> None:
        """Give back what it holds."""


@dataclass(kw_only=True)
class Setting:
    """The training that rows are for, as an objective that draws them itself needs to know it.

    Attributes:
        shuffled: the rows of each step, as they are without drawing.
        adapter: trained in place; it is in the bank when rows are asked for.
        note: told what the user should know, in one line.
    """

    bank: Bank
    template: Template
    adapter: Adapter
    shuffled: RowSource
    seed: int
    note: Callable[[str], None]
    stopping: Callable[[], bool]


# Rows -> for each row and each of its sequences, the log-probabilities (n,) of its n supervised tokens
# by the model that training starts from. Computed once, kept on disk by their digest.
Reference = Callable[[Sequence[Row]], "list[list[np.ndarray]]"]


@dataclass
class NoKnobs:
    """An objective with nothing to set."""

    group: ClassVar[str] = "objective"


class Objective(ABC):
    """One thing to minimise. Instances hold their knobs, and no other state.

    Attributes:
        summary: one line for help and tables.
        paper: where it comes from.
        Config: the file's dataclass of knobs, its `group` the heading in help; `config` is an instance.
        defaults: values for the training's knobs that suit this objective better than the method's.
        rate: share of the method's usual learning rate that suits this objective.
        wants: what the data must hold.
        best: the metric that the best weights are chosen by, and whether low or high is good. It is
            "loss" or one of the metrics that `loss` gives.
        reads_states: whether `loss` asks for states, which takes a whole pass.
        scores: whether its models score texts in place of writing them.
        draws: rows are prompts at first, whose answers are drawn while training.
        search: knobs worth trying at other values, the default first, for a climb that has the time.
    """

    summary: ClassVar[str]
    paper: ClassVar[str] = ""
    Config: ClassVar[type] = NoKnobs
    defaults: ClassVar[dict[str, Any]] = {}
    rate: ClassVar[float] = 1.0
    wants: ClassVar[Literal["replies", "pairs", "ratings", "prompts"]] = "replies"
    best: ClassVar[tuple[str, Literal["low", "high"]]] = ("loss", "low")
    reads_states: ClassVar[bool] = False
    scores: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    search: ClassVar[dict[str, tuple[Any, ...]]] = {}

    def __init__(self, name: str):
        self.name = name
        self.config = self.Config()

    def usual(self, method: Mapping[str, Any]) -> dict[str, Any]:
        """Give the training's defaults: the method's, its learning rate by `rate`, under this one's."""
        scaled = {"lr": self.scaled(method["lr"])} if "lr" in method else {}
        return {**method, **scaled, **self.defaults}

    def scaled(self, lr: float) -> float:
        """A method's learning rate as it suits this objective, to three digits."""
        return float(f"{lr * self.rate:.3g}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def configured(self, config: Any) -> Self:
        """The same objective with these knobs.

        Raises:
            ConfigError: for a knob that was set and would not be read.
        """
        usual = type(config)()
        for name, needs in self.unread(config).items():
            if getattr(config, name) != getattr(usual, name):
                raise ConfigError(
                    f"--{name.replace('_', '-')} is for {needs}: say that too, or leave it out"
                )
        other = copy(self)
        other.config = config
        return other

    def unread(self, config: Any) -> dict[str, str]:
        """The knobs that these settings leave unread, and what they are for."""
        return {}

    def rungs(self, method: Method) -> list[dict[str, Any]]:
        """The settings of each rung that it makes of a trained method on a ladder whose rows it wants;
        none for an objective that does not teach what the ladder measures."""
        return []

    def better(self, value: float, than: float | None) -> bool:
        """Whether a value of the metric `best`, no NaN, is better than another one, or than none."""
        if math.isnan(value):
            return False
        if than is None or math.isnan(than):
            return True
        return value < than if self.best[1] == "low" else value > than

    def rows(
        self, examples: Sequence[Example], template: Template, limit: int
    ) -> tuple[list[Row], list[Problem]]:
        """Every row of at most `limit` tokens a sequence, and what was done about the others."""
        from rung.data import pairs

        items: Iterable[Any] = examples
        problems: list[Problem] = []
        if self.wants == "pairs":
            items, problems = pairs(examples) if examples else ([], [])
        rows: list[Row] = []
        long: list[str] = []
        alone: list[str] = []
        refused: list[str] = []
        for item in items:
            try:
                row = self.row(item, template)
            except DataError as fault:
                refused.append(str(fault))
                continue
            fits = all(len(s) <= limit for s in row.sequences)
            if fits:
                rows.append(row)
            else:
                (alone if _filled(row, limit) else long).append(row.origin)
        return rows, [*problems, *_left_out(long, alone, refused, limit)]

    @abstractmethod
    def row(self, item: Example | Pair | Any, template: Template) -> Row:
        """A row of one example, or of one pair where it wants pairs.

        Raises:
            DataError: naming the row, when it cannot be rendered.
        """

    def source(self, setting: Setting) -> RowSource:
        """Where the rows of each step come from; the data's own, in shuffled order, by default."""
        return setting.shuffled

    def expected(self, row: Row) -> Row:
        """A row as large as training may make it, for estimates of memory and time."""
        return row

    def equip(self, adapter: Adapter, bank: Bank, template: Template) -> None:
        """Give an adapter what is trained beside the method's weights, such as a head."""
        return

    @property
    def reference(self) -> Literal["start", "base"]:
        """Whose log-probabilities `prepare` is given: of what training starts from, or of the base."""
        return "start"

    def prepare(self, rows: list[Row], reference: Reference) -> list[Row]:
        """Add what is computed once before the first step; called with every part of the data."""
        return rows

    def settle(self, rows: Sequence[Row], logprobs: Reference) -> Sequence[Row]:
        """Add what the loss needs of all rows of a step together, by the weights as they are now.

        Args:
            logprobs: by the adapter that is trained, without gradients.
        """
        return rows

    @abstractmethod
    def loss(self, policy: Policy, rows: Sequence[Row]) -> Loss:
        """The sum of the loss over rows, whose sequences are the policy's one after another."""

    def figures(self, found: Mapping[str, float], rows: Sequence[Row], template: Template) -> dict:
        """More figures of the test rows, from the means that were found there."""
        return {}


def _filled(row: Row, limit: int) -> bool:
    """Whether what stands in front of a row's replies leaves no room for a token of them."""
    from rung.forward.packing import common_prefix

    first = row.sequences[0]
    if len(row.sequences) > 1:
        return min(common_prefix(first.ids, s.ids) for s in row.sequences[1:]) >= limit
    return first.supervised is not None and not first.supervised[:limit].any()


def _left_out(long: list[str], alone: list[str], refused: list[str], limit: int) -> list[Problem]:
    from rung.data import Problem
    from rung.data.problem import counted, places

    problems = []
    if long:
        told = (
            f"{counted(long, 'row is', 'rows are')} longer than --max-length {limit} "
            f"({places(long)}): left out"
        )
        problems.append(Problem("warning", told, tuple(long)))
    if alone:
        told = (
            f"{counted(alone, 'row has', 'rows have')} a prompt that alone fills --max-length "
            f"{limit} ({places(alone)}): "
            "they are left out"
        )
        problems.append(Problem("warning", told, tuple(alone)))
    if refused:
        problems.append(Problem("error", "; ".join(refused[:10]), tuple(refused)))
    return problems
