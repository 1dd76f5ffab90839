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
from rung.train.plan import Plan
from rung.train.sources import Shuffled
from rung.types import BaseInfo, Rendered

Stage = Callable[[str], None]


@dataclass(kw_only=True)
class Prepared:
    """Data and base, read and loaded once, which trainings of one task on one base share.

    Attributes:
        rows: of each part as training sees them, once `rendered` made them. problems: of theirs.
    """

    base: BaseInfo
    dataset: Dataset
    splits: Splits
    template: Template
    bank: Bank
    rows: dict[str, list[Rendered]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _known: dict[int, Prepared] = field(default_factory=dict)

    def rendered(self, limit: int) -> Prepared:
        """The same with rows of at most `limit` tokens.

        Raises:
            DataError: for what would ruin a training, all of it at once.
        """
        if limit not in self._known:
            rows, problems = self._render(limit)
            self._known[limit] = replace(self, rows=rows, problems=problems)
        return self._known[limit]

    def _render(self, limit: int) -> tuple[dict[str, list[Rendered]], list[Problem]]:
        rows, problems = {}, []
        for part, examples in self.splits:
            rows[part], found = self.template.render_all(examples, limit)
            problems += found
        untrained = untrained_rows(self.bank.model.get_input_embeddings().weight)
        problems += self.dataset.problems
        problems += check(
            rows["train"], self.splits, self.template, untrained=untrained, found=problems
        )
        refuse(problems)
        usable = {part: [r for r in found if any(r.supervised[1:])] for part, found in rows.items()}
        return usable, problems

    def over(self, splits: Splits) -> Prepared:
        """The same base over other rows of the same data."""
        return replace(self, splits=splits, rows={}, problems=[], _known={})


def read(knobs: DataKnobs, stage: Stage) -> tuple[Dataset, Splits]:
    """The data and its parts."""
    stage("reading the data")
    dataset = load(knobs)
    return dataset, split(dataset, knobs)


def open_base(run: RunKnobs, dataset: Dataset, splits: Splits, stage: Stage) -> Prepared:
    """The base in memory, with its template, beside data that was read."""
    stage(f"loading {run.base}")
    info = bases.resolve(run.base, data=_texts(splits))
    base = bases.load(info, dtype=run.dtype, device=run.device, quantize=run.quantize)
    template = Template.of(base.tokenizer, generation_config=base.model.generation_config)
    bank = Bank(base.model, info.digest)
    return Prepared(base=info, dataset=dataset, splits=splits, template=template, bank=bank)


def prepare(plan: Plan, stage: Stage, opened: Prepared | None = None) -> Prepared:
    """Read the data, load the base, render every row, and refuse what would ruin the training.

    Args:
        opened: data and base of the same settings that are in memory already, with or without rows.
    """
    if opened is None:
        opened = open_base(plan.run, *read(plan.data, stage), stage)
    bank = opened.bank
    misfit = plan.method.misfit(bank, plan.config)
    if misfit:
        raise MethodMisfit(f"{plan.method.name} does not fit {opened.base.name}: {misfit}")
    stage("rendering the rows")
    # What the adapter puts in front takes its room from the context too.
    limit = min(plan.train.max_length, _context(bank) - plan.method.positions(plan.config))
    return opened.rendered(limit)


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
    first = Shuffled(prepared.rows["train"], plan.train.batch_size, plan.train.seed).rows(0)
    replies = [tuple(i for i, s in zip(r.ids, r.supervised, strict=True) if s) for r in first]
    tokenizer = prepared.template.tokenizer

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    return plan.method.build(bank, plan.config, Start(generator, replies, encode))


def _texts(splits: Splits) -> Iterator[str]:
    for example in splits.train:
        yield example.text or "\n".join(m["content"] for m in example.messages)


def _context(bank: Bank) -> int:
    return getattr(bank.config, "max_position_embeddings", None) or 1 << 30
