"""What a method must say. Everything else about it is its own business."""

from __future__ import annotations

import dataclasses
from abc import ABC
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from rung.methods.workload import Shape, Workload, scoring, training

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Generator, Tensor

    from rung.data import Template
    from rung.forward.adapter import Adapter
    from rung.forward.bank import Bank
    from rung.types import BaseInfo, Example, Modality, RowKind, Task


@dataclass
class Start:
    """What a method may begin from.

    Attributes:
        generator: the only source of randomness, seeded by the run.
        sequences: token ids of training examples, in the order of training.
        encode: text -> token ids, without special tokens.
        tokens: ids of the tokens that are added to the base's, in ascending order.
    """

    generator: Generator
    sequences: list[tuple[int, ...]] = field(default_factory=list)
    encode: Callable[[str], list[int]] | None = None
    tokens: tuple[int, ...] = ()


@dataclass
class Study:
    """What a method that is not trained by gradients may look at. The test rows are not among it.

    Attributes:
        train: rows to take examples from. validation: rows to choose by.
        folder: of the run, for what is dear to compute twice.
        note: tells the user something in one line.
        stopping: asked now and then; True means to raise Interrupted soon.
        training: the run's `TrainKnobs`, for those who train by themselves; None where there are none.
    """

    bank: Bank
    template: Template
    task: Task
    train: list[Example]
    validation: list[Example]
    seed: int
    folder: Path
    note: Callable[[str], None]
    stopping: Callable[[], bool] = lambda: False
    training: Any = None


@dataclass(frozen=True)
class Schedule:
    """Of a training: optimiser steps, rows of a step, and validations with the one at the start."""

    steps: int
    batch: int
    checks: int


# What a backward pass takes, in forward passes: through frozen weights, and with weights' gradients.
FROZEN_BACKWARD, OWN_BACKWARD = 1.2, 2.1


@dataclass
class Fitted:
    """What `fit` found.

    Attributes:
        metrics: figures worth keeping: the choice and what others scored.
        told: what a climb's table says beside the figure, in a few words, such as its recall.
    """

    adapter: Adapter
    metrics: dict[str, Any] = field(default_factory=dict)
    told: str = ""


class Method(ABC):
    """One way to adapt a base. Instances hold no state.

    A method either is trained (`build` gives what training starts from) or finds its adapter itself
    (`fit`, and `trained` is False).

    Attributes:
        summary: one line for help and tables.
        paper: where it comes from.
        peft_type: PEFT's name for its artefacts, or None where PEFT does not know it.
        Config: the file's dataclass of knobs, its `group` the heading in help.
        trained: whether the training loop makes its adapter; else `fit` does.
        own_weights: whether it trains copies of the base's weights, which then must not be quantised.
        own_base: whether its models are bases of their own, which `to_base` writes.
        weightless: whether its adapters are words alone, which no other tool could load.
        calls_tools: whether it asks with the tools of `--tools`, whatever the rows hold.
        classifies: whether its adapters read a label off the base's states, without generating a token.
        scores: whether `fit` makes a reward model of pairs.
        wants: the kind of rows that `fit` learns from, None for what the objective wants.
        baseline: whether it does without the base and so is what every other method has to beat. A
            climb fits it before the base is loaded: its study has neither bank nor template.
        renamed: general knobs that mean nothing to it -> those of its own that are meant by them.
        formed: its knobs that an adapter is formed by when it is made: a training that goes on from a
            parent has the parent's.
        modality: what its bases read; see `on` for those that do the same idea on pictures.
        defaults: values for the training knobs that suit this method better than the general ones.
        search: knobs worth trying at other values, the default first, for a climb that has the time.
    """

    summary: ClassVar[str]
    paper: ClassVar[str] = ""
    peft_type: ClassVar[str | None] = None
    Config: ClassVar[type]
    trained: ClassVar[bool] = True
    own_weights: ClassVar[bool] = False
    own_base: ClassVar[bool] = False
    weightless: ClassVar[bool] = False
    calls_tools: ClassVar[bool] = False
    classifies: ClassVar[bool] = False
    scores: ClassVar[bool] = False
    wants: ClassVar[RowKind | None] = None
    baseline: ClassVar[bool] = False
    renamed: ClassVar[dict[str, str]] = {}
    formed: ClassVar[tuple[str, ...]] = ()
    modality: ClassVar[Modality] = "text"
    defaults: ClassVar[dict[str, Any]] = {}
    search: ClassVar[dict[str, tuple[Any, ...]]] = {}

    def __init__(self, name: str):
        self.name = name

    def on(self, reads: Modality) -> Method:
        """This method, or its variant for bases that read something else, where it has one."""
        return self

    def misread(self, task: Task) -> str | None:
        """Why it cannot read what the rows of a task ask, or None."""
        asked = "pictures" if task.pictures else "text"
        return (
            None if asked == self.modality else f"it reads {self.modality}, and rows ask with {asked}"
        )

    def misfit(self, bank: Bank, config: Any) -> str | None:
        """Why this method cannot be used on this base with these knobs, or None."""
        taken = self.positions(config)
        if taken and taken >= bank.context - 1:
            return f"it takes {taken} positions and the base has {bank.context} in all: take fewer"
        return None

    def refusal(self, bank: Bank, config: Any) -> str | None:
        """Why this method cannot be used on this base: what `misfit` says, or no generation."""
        if bank.reads != self.modality:
            return f"it is a method for {self.modality}, and this base reads {bank.reads}"
        if bank.findings.causal is not None and not (self.classifies or self.baseline):
            return f"{bank.findings.causal}; linear_probe can read it"
        if name := self._meaningless(config, bank.reads):
            told = name.replace("_", "-")
            return f"--{told} means nothing on bases that read {bank.reads}: leave it out"
        return self.misfit(bank, config)

    def _meaningless(self, config: Any, reads: Modality) -> str | None:
        """A knob that was set and is for bases that read something else, or None."""
        usual = self.Config()
        for one in dataclasses.fields(usual):
            only = one.metadata.get("reads")
            if only not in (None, reads) and getattr(config, one.name) != getattr(usual, one.name):
                return one.name
        return None

    def base_spec(self, config: Any) -> str | None:
        """The spec of the base that it begins from, in place of the one the user names; None: that."""
        return None

    def rungs(self, task: Task) -> list[dict[str, Any]]:
        """The settings of each rung that this method makes of itself on the ladder, plain first."""
        return [{}]

    def unsuited(self, task: Task, config: Any) -> str | None:
        """Why this method cannot do such a task, or None."""
        return None

    def untrainable(self, adapter: Adapter) -> str | None:
        """Why training cannot go on from an adapter of this method that somebody else made, or None."""
        return None

    def go_on(self, adapter: Adapter, bank: Bank, config: Any, start: Start) -> Adapter:
        """What training goes on with from a parent's adapter, which may be changed.

        Raises:
            MethodMisfit: when the knobs do not fit it.
        """
        return adapter

    def positions(self, config: Any) -> int:
        """How many positions of the context the adapter takes for itself."""
        return 0

    def further_bases(self, adapter: Adapter) -> list[BaseInfo]:
        """The bases that an adapter stands on beside its own, such as what it sees through."""
        return []

    def picture_tokens(self, config: Any) -> int:
        """Tokens of a prompt that a picture takes, for methods whose language models see; else 0."""
        return 0

    def added_tokens(self, config: Any) -> list[str]:
        """Texts that are to become tokens of the model, whose rows `build` gives its adapter."""
        return []

    def build(self, bank: Bank, config: Any, start: Start) -> Adapter:
        """A fresh adapter, its parameters float32 on the bank's device.

        Raises:
            MethodMisfit: when the knobs do not fit the base.
        """
        raise NotImplementedError(f"{self.name} is not trained: it has no `build`")

    def fit(self, study: Study, config: Any) -> Fitted:
        """The adapter that this method chooses, without the training loop.

        Raises:
            MethodMisfit: when it cannot be had from these rows.
        """
        raise NotImplementedError(f"{self.name} is trained: it has no `fit`")

    def reads(self, config: Any, train: int, validation: int) -> tuple[int, int]:
        """How many rows of training and of validation `fit` learns from and chooses by, of so many.

        A climb samples the rows of training; where there are none, there is nothing to sample.
        """
        return train, validation

    def holds(self, bank: Bank, config: Any, rows: int, tokens: int) -> int:
        """Bytes that `fit` holds at once of so many rows that it read, with so many tokens."""
        return 0

    def rates(self, config: Any, names: Iterable[str]) -> dict[str, float]:
        """Times the learning rate that some of the trained parameters learn with, by their names."""
        return {}

    def behind(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The settings of the rung that is tried before the one with `settings`; None: of none.

        It is of the same method, takes less, and is about as good.
        """
        plain = {name: value for name, value in settings.items() if name != "quantize"}
        return plain if len(plain) < len(settings) else None

    # --- what it costs, from counts --------------------------------------------------------------

    def size(self, bank: Bank, config: Any, shape: Shape) -> int:
        """Parameters of the adapter; 0 for one that holds words alone, or follows from its rows."""
        if not self.trained:
            return 0
        import torch

        return self.build(bank, config, Start(torch.Generator().manual_seed(0))).size

    def making(self, config: Any, shape: Shape, schedule: Schedule) -> Workload:
        """What finding or training the adapter computes.

        Args:
            schedule: of a training; others do not look at it.
        """
        if not self.trained:
            return Workload()
        backward = OWN_BACKWARD if self.own_weights else FROZEN_BACKWARD
        share = self.trained_share(config, shape)
        return training(shape, schedule.steps, schedule.batch, schedule.checks, backward, share)

    def trained_share(self, config: Any, shape: Shape) -> float:
        """The upper share of the base's layers that training goes through."""
        return 1.0

    def answering(self, config: Any, shape: Shape) -> Workload:
        """What the answer to one row computes, many asked side by side."""
        return scoring(shape)

    def to_files(
        self, adapter: Adapter, bank: Bank, config: Any
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The adapter as (settings, tensors), in PEFT's layout where `peft_type` is set."""
        own = ("reward.", "value")  # heads, which are kept apart or not at all
        return {}, {n: t for n, t in adapter.parameters().items() if not n.startswith(own)}

    def from_files(self, settings: dict[str, Any], tensors: dict[str, Tensor], bank: Bank) -> Adapter:
        """The adapter that `to_files` wrote; for one in PEFT's layout see `rung/methods/peft/`.

        Raises:
            ArtefactError: naming the tensor that is missing, of a wrong shape, or not finite.
        """
        raise NotImplementedError(f"{self.name} is read by its kind in rung/methods/peft")

    def to_folder(self, adapter: Adapter, bank: Bank, folder: Path) -> None:
        """Write what is neither settings nor tensors, such as an index or, beside PEFT's layout, a
        classifier, into the model's folder.

        Never a pickle: the store refuses the whole folder for one.
        """
        return

    def from_folder(self, adapter: Adapter, bank: Bank, folder: Path) -> None:
        """Give the adapter back what `to_folder` wrote; `adapter` is what `from_files` made.

        Raises:
            ArtefactError: naming the file that is missing or damaged.
        """
        return

    def to_base(self, adapter: Adapter, bank: Bank, folder: Path) -> None:
        """Write config and weights of a base that needs no other, where `own_base` says so."""
        raise NotImplementedError(f"{self.name} makes no base of its own")
