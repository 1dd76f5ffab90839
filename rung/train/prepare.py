"""From a plan to rows, base and adapter: all that stands before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from rung import bases
from rung.data import Dataset, Problem, Splits, Template, check, load, refuse, split, untrained_rows
from rung.errors import ConfigError, MethodMisfit
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.methods import artefact
from rung.methods.base import Start
from rung.store import artefacts
from rung.train.order import Order
from rung.train.plan import Plan
from rung.types import BaseInfo, Rendered


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


def prepare(plan: Plan, stage: Callable[[str], None]) -> Prepared:
    """Read the data, load the base, render every row, and refuse what would ruin the training."""
    stage("reading the data")
    dataset = load(plan.data)
    splits = split(dataset, plan.data)
    stage(f"loading {plan.run.base}")
    info = bases.resolve(plan.run.base, data=_texts(splits))
    base = bases.load(info, dtype=plan.run.dtype, device=plan.run.device)
    template = Template.of(base.tokenizer, generation_config=base.model.generation_config)
    bank = Bank(base.model)
    misfit = plan.method.misfit(bank, plan.config)
    if misfit:
        raise MethodMisfit(f"{plan.method.name} does not fit {info.name}: {misfit}")
    stage("rendering the rows")
    # What the adapter puts in front takes its room from the context too.
    limit = min(plan.train.max_length, _context(bank) - plan.method.positions(plan.config))
    rows, problems = {}, []
    for part, examples in splits:
        rows[part], found = template.render_all(examples, limit)
        problems += found
    untrained = untrained_rows(base.model.get_input_embeddings().weight)
    problems += dataset.problems
    problems += check(rows["train"], splits, template, untrained=untrained)
    refuse(problems)
    rows = {part: [r for r in found if any(r.supervised[1:])] for part, found in rows.items()}
    return Prepared(info, dataset, splits, template, bank, rows, problems)


def adapter_of(plan: Plan, prepared: Prepared) -> Adapter:
    """A fresh adapter, or the parent's weights to go on from.

    Raises:
        ConfigError: when the parent was made by another method.
    """
    bank = prepared.bank
    if plan.run.parent:
        folder = artefacts.model_folder(plan.run.parent)
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


def _context(bank: Bank) -> int:
    return getattr(bank.config, "max_position_embeddings", None) or 1 << 30
