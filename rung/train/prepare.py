"""From a plan to rows, base and adapter: all that stands before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch

from rung import bases
from rung.artefacts import folders
from rung.data import Dataset, Problem, Splits, Template, check, load, refuse, split, untrained_rows
from rung.data.knobs import DataKnobs
from rung.errors import ConfigError, MethodMisfit
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.methods import artefact
from rung.methods.base import Start
from rung.train.knobs import RunKnobs
from rung.train.order import Order
from rung.train.plan import Plan
from rung.types import BaseInfo, Rendered

Stage = Callable[[str], None]


@dataclass
class Opened:
    """Data and base, read and loaded once: what trainings of one task on one base can share.

    Attributes:
        rendered: rows by the length they were cut to.
    """

    base: BaseInfo
    dataset: Dataset
    splits: Splits
    template: Template
    bank: Bank
    rendered: dict[int, tuple[dict[str, list[Rendered]], list[Problem]]] = field(default_factory=dict)

    def rows(self, limit: int) -> tuple[dict[str, list[Rendered]], list[Problem]]:
        """Every part's rows as the model sees them, at most `limit` tokens long, and their problems.

        Raises:
            DataError: for what would ruin a training, all of it at once.
        """
        if limit not in self.rendered:
            self.rendered[limit] = self._render(limit)
        return self.rendered[limit]

    def _render(self, limit: int) -> tuple[dict[str, list[Rendered]], list[Problem]]:
        rows, problems = {}, []
        for part, examples in self.splits:
            rows[part], found = self.template.render_all(examples, limit)
            problems += found
        untrained = untrained_rows(self.bank.model.get_input_embeddings().weight)
        problems += self.dataset.problems
        problems += check(rows["train"], self.splits, self.template, untrained=untrained)
        refuse(problems)
        usable = {part: [r for r in found if any(r.supervised[1:])] for part, found in rows.items()}
        return usable, problems

    def over(self, splits: Splits) -> Opened:
        """The same base over other rows of the same data."""
        return replace(self, splits=splits, rendered={})


@dataclass
class Prepared:
    """What stands before the first step."""

    base: BaseInfo
    dataset: Dataset
    splits: Splits
    template: Template
    bank: Bank
    rows: dict[str, list[Rendered]]
    problems: list[Problem]


def read(knobs: DataKnobs, stage: Stage) -> tuple[Dataset, Splits]:
    """The data and its parts."""
    stage("reading the data")
    dataset = load(knobs)
    return dataset, split(dataset, knobs)


def open_base(run: RunKnobs, dataset: Dataset, splits: Splits, stage: Stage) -> Opened:
    """The base in memory, with its template, beside data that was read."""
    stage(f"loading {run.base}")
    info = bases.resolve(run.base, data=_texts(splits))
    base = bases.load(info, dtype=run.dtype, device=run.device, quantize=run.quantize)
    template = Template.of(base.tokenizer, generation_config=base.model.generation_config)
    return Opened(info, dataset, splits, template, Bank(base.model, info.digest))


def prepare(plan: Plan, stage: Stage, opened: Opened | None = None) -> Prepared:
    """Read the data, load the base, render every row, and refuse what would ruin the training.

    Args:
        opened: data and base that are there already, of the same settings.
    """
    if opened is None:
        opened = open_base(plan.run, *read(plan.data, stage), stage)
    bank = opened.bank
    misfit = plan.method.misfit(bank, plan.config)
    if misfit:
        raise MethodMisfit(f"{plan.method.name} does not fit {opened.base.name}: {misfit}")
    stage("rendering the rows")
    # What the adapter puts in front takes its room from the context too.
    limit = min(plan.train.max_length, bank.context - plan.method.positions(plan.config))
    rows, problems = opened.rows(limit)
    return Prepared(opened.base, opened.dataset, opened.splits, opened.template, bank, rows, problems)


def adapter_of(plan: Plan, prepared: Prepared) -> Adapter:
    """A fresh adapter, or the parent's weights to go on from.

    Raises:
        ConfigError: when the parent was made by another method.
    """
    bank = prepared.bank
    if plan.run.parent:
        folder = folders.model_folder(plan.run.parent)
        adapter, about = artefact.load(folder, bank)
        if about["method"] != plan.method.name:
            raise ConfigError(
                f"--parent {plan.run.parent} was made by {about['method']}, not {plan.method.name}: "
                f"use --method {about['method']}"
            )
        return adapter
    generator = torch.Generator().manual_seed(plan.train.seed)
    order = Order(len(prepared.rows["train"]), plan.train.batch_size, plan.train.seed)
    first = [prepared.rows["train"][i] for i in order.batch(0)]
    replies = [tuple(i for i, s in zip(r.ids, r.supervised, strict=True) if s) for r in first]
    tokenizer = prepared.template.tokenizer

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    return plan.method.build(bank, plan.config, Start(generator, replies, encode))


def _texts(splits: Splits) -> Iterator[str]:
    for example in splits.train:
        yield example.text or "\n".join(m["content"] for m in example.messages)
