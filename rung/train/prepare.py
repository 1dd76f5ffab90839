"""From a plan to rows, base and adapter: all that stands before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from rung import bases, launch
from rung.artefacts import folders
from rung.data import Dataset, Problem, Splits, Template, check, load, refuse, split, untrained_rows
from rung.data.added_tokens import added_to
from rung.data.knobs import DataKnobs
from rung.data.tool_calls import OPEN
from rung.errors import ConfigError, MethodMisfit
from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.forward.dry_run import dry_run
from rung.forward.opening import open_bank
from rung.methods import artefact
from rung.methods.base import Start
from rung.objectives import Objective, Row
from rung.tools.agent import Agent
from rung.train.knobs import RunKnobs
from rung.train.plan import Plan
from rung.train.sources import Shuffled
from rung.types import BaseInfo, Example, Message, Rendered, RowKind, without_tools

Stage = Callable[[str], None]

NOT_TOLD = (
    "the model is not told of --tools in this training, as no training row calls one: give rows with "
    "calls, or take a method that calls tools itself (docs/tools.md)"
)


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
    rows: dict[str, list[Row]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _known: list[tuple[tuple[Objective, int], Prepared]] = field(default_factory=list)

    def rendered(self, objective: Objective, limit: int) -> Prepared:
        """The same with an objective's rows of at most `limit` tokens a sequence.

        Raises:
            DataError: for what would ruin a training, all of it at once.
        """
        for known, made in self._known:
            if known == (objective, limit):
                return made
        rows, problems = self._render(objective, limit)
        made = replace(self, rows=rows, problems=problems)
        self._known.append(((objective, limit), made))
        return made

    def _render(self, objective: Objective, limit: int) -> tuple[dict[str, list[Row]], list[Problem]]:
        rows: dict[str, list[Row]] = {}
        problems: list[Problem] = []
        agent = None if objective.draws else self.agent(objective)  # who draws tells of tools itself
        for part, examples in self.splits:
            told = examples if agent is None else [_told(e, agent) for e in examples]
            rows[part], found = objective.rows(told, self.template, limit)
            problems += found
        problems += [*self.dataset.problems, *self.splits.problems]
        if not objective.draws and self.bank.reads != "pictures":  # whose rows have no tokens
            added = frozenset(self.template.added.values())
            known = untrained_rows(self.bank.model.get_input_embeddings().weight)
            problems += check(
                _rendered(rows["train"]),
                template=self.template,
                untrained=lambda ids: [i for i in known(ids) if i not in added],
                vocabulary=max([self.bank.vocabulary, *(i + 1 for i in added)]),
                found=problems,
            )
        elif objective.draws and not rows["train"] and not any(p.severity == "error" for p in problems):
            problems.append(Problem("error", "no prompts are left to train on"))
        refuse(problems)
        usable = {part: [r for r in found if _teaches(r)] for part, found in rows.items()}
        return usable, problems

    def agent(self, objective: Objective) -> Agent | None:
        """The tools that the rows call, or that answers are drawn with, where the user names them."""
        rows = self.splits.train
        turns = (m for e in rows for m in (*e.messages, *e.rejected))
        called = objective.draws or any(map(_calls, turns))
        return Agent.of(rows[0].tools) if called and rows[0].tools else None

    def over(self, splits: Splits) -> Prepared:
        """The same base over other rows of the same data."""
        return replace(self, splits=splits, rows={}, problems=[], _known=[])


def _calls(message: Message) -> bool:
    """Whether a turn calls a tool, or reports what one gave."""
    written = message["role"] == "assistant" and OPEN in message["content"]
    return written or bool(message.get("result"))


def _told(example: Example, agent: Agent) -> Example:
    """A row whose conversations tell of an agent's tools, as they are told when it is asked."""

    def told(messages: Sequence[Message]) -> tuple[Message, ...]:
        return tuple(agent.messages(without_tools(messages)))

    if not example.messages:
        return example
    rejected = told(example.rejected) if example.rejected else ()
    return replace(example, messages=told(example.messages), rejected=rejected)


def _teaches(row: Row) -> bool:
    """Whether there is something to predict in every sequence of a row."""
    return all(s.supervised is None or bool(s.supervised[1:].any()) for s in row.sequences)


def _rendered(rows: list[Row]) -> list[Rendered]:
    """Every sequence of rows as what is checked before a training, whole where it predicts nothing."""
    return [
        Rendered(
            tuple(s.ids.tolist()),
            (True,) * len(s) if s.supervised is None else tuple(s.supervised.tolist()),
            row.origin,
        )
        for row in rows
        for s in row.sequences
    ]


def read(knobs: DataKnobs, stage: Stage, wants: RowKind | None = "replies") -> tuple[Dataset, Splits]:
    """The data and its parts, its rows of the kind that an objective wants."""
    stage("reading the data")
    dataset = load(knobs, wants)
    return dataset, split(dataset, knobs)


def find_base(run: RunKnobs, splits: Splits) -> BaseInfo:
    """Find the base, fetched and converted, without loading it; data is what a fresh one is made for.

    Raises:
        BaseNotFound, ArtefactError: as `bases.resolve`.
    """
    return bases.resolve(run.base, data=_texts(splits))


def open_base(
    run: RunKnobs,
    dataset: Dataset,
    splits: Splits,
    stage: Stage,
    info: BaseInfo | None = None,
    decodes: bool = True,
) -> Prepared:
    """The base in memory, with its template, beside data that was read.

    Args:
        info: what `find_base` found already. decodes: as `open_bank`.
    """
    stage(f"loading {run.base}")
    info = info or find_base(run, splits)
    place = launch.chosen(run.launch).shard if run.shard else None
    opened = open_bank(
        info, dtype=run.dtype, device=run.device, quantize=run.quantize, place=place, decodes=decodes
    )
    return Prepared(
        base=info, dataset=dataset, splits=splits, template=opened.template, bank=opened.bank
    )


def prepare(plan: Plan, stage: Stage, opened: Prepared | None = None) -> Prepared:
    """Read the data, load the base, render every row, and refuse what would ruin the training.

    Args:
        opened: data and base of the same settings that are in memory already, with or without rows.
    """
    if opened is None:
        wanted = plan.method.wants or plan.objective.wants
        opened = open_base(plan.run, *read(plan.data, stage, wanted), stage)
    bank = opened.bank
    misfit = plan.method.refusal(bank, plan.config)
    if misfit:
        raise MethodMisfit(f"{plan.method.name} does not fit {opened.base.name}: {misfit}")
    stage("rendering the rows")
    if count := plan.method.picture_tokens(plan.config):
        template = replace(opened.template, picture_tokens=count)
        opened = replace(opened, template=template, rows={}, problems=[], _known=[])
    opened, told = with_tokens(plan, opened)
    # What the adapter puts in front takes its room from the context too.
    limit = min(plan.train.max_length, bank.context - plan.method.positions(plan.config))
    made = opened.rendered(plan.objective, limit)
    if any(e.tools for e in made.splits.train) and not plan.method.calls_tools:
        told += [] if made.agent(plan.objective) else [Problem("warning", NOT_TOLD)]
    return replace(made, problems=[*made.problems, *told]) if told else made


def with_tokens(plan: Plan, opened: Prepared) -> tuple[Prepared, list[Problem]]:
    """Data and base as the parent reads them, with its tokens and those that are to be added, and what
    is said of tokens that there are already.

    Raises:
        MethodMisfit: where the base has more tokens than rows.
        ConfigError: where the parent's tokens are not those that its tokenizer would have.
    """
    before: dict[str, int] = {}
    if plan.run.parent:
        about = artefact.about(folders.model_folder(plan.run.parent))
        before = about.get("added_tokens", {})
        if (template := artefact.template_of(about, opened.template)).calls != opened.template.calls:
            opened = replace(opened, template=template, rows={}, problems=[], _known=[])
    asked = plan.method.added_tokens(plan.config)
    if not before and not asked:
        return opened, []
    size = len(opened.template.tokenizer)
    if size > opened.bank.vocabulary:
        raise MethodMisfit(
            f"the tokenizer of {opened.base.name} has {size:,} tokens already and its embeddings "
            f"{opened.bank.vocabulary:,} rows: take the tokenizer that belongs to it"
        )
    template, _ = added_to(opened.template, sorted(before, key=before.__getitem__))
    if dict(template.added) != before:
        raise ConfigError(
            f"--parent {plan.run.parent} has added tokens that this base's tokenizer would not have "
            "under their ids: use the base that it was made on"
        )
    template, known = added_to(template, asked)
    told = [
        Problem("warning", f"'{t}' is a token of the base or the parent already: it is not added")
        for t in known
        if t not in before
    ]
    return replace(opened, template=template, rows={}, problems=[], _known=[]), told


def adapter_of(plan: Plan, prepared: Prepared) -> Adapter:
    """A fresh adapter, or the parent's weights to go on from, with what the objective trains beside.

    Raises:
        ConfigError: when the parent was made by another method, or writes no texts.
        MethodMisfit: when the base cannot be computed with it.
    """
    adapter = _parent_or_fresh(plan, prepared)
    fault = dry_run(prepared.bank, adapter) or artefact.read_back(
        adapter, prepared.bank, plan.method, plan.config
    )
    if fault is not None:
        raise MethodMisfit(f"{plan.method.name} does not fit {prepared.base.name}: {fault}")
    _require_calls(adapter, prepared)
    plan.objective.equip(adapter, prepared.bank, prepared.template)
    if fault := dry_run(prepared.bank, adapter):
        raise MethodMisfit(f"{plan.method.name} does not fit {prepared.base.name}: {fault}")
    return adapter.to(prepared.bank.device)


def _require_calls(adapter: Adapter, prepared: Prepared) -> None:
    """Refuse an adapter that is called by a text which no training row holds: it would learn nothing.

    Raises:
        MethodMisfit: showing the tokens.
    """
    if not adapter.activation:
        return
    rows = (s.ids for row in prepared.rows["train"] for s in row.sequences)
    if any(adapter.begins(ids) < len(ids) for ids in rows):  # type: ignore[operator]
        return
    text = prepared.template.tokenizer.decode(adapter.activation)
    raise MethodMisfit(
        f"the adapter acts from '{text}' on, and no training row holds its tokens "
        f"{list(adapter.activation)} as rows are rendered: see them with `rung data`"
    )


def _parent_or_fresh(plan: Plan, prepared: Prepared) -> Adapter:
    bank, start = prepared.bank, _start(plan, prepared)
    if not plan.run.parent:
        return plan.method.build(bank, plan.config, start)
    folder = folders.model_folder(plan.run.parent)
    about = artefact.about(folder)
    if why := _foreign_base(about, prepared.base):
        raise ConfigError(f"--parent {plan.run.parent} {why}")
    adapter, about = artefact.load(folder, bank)
    if about["method"] != plan.method.name:
        raise ConfigError(
            f"--parent {plan.run.parent} was made by {about['method']}, not {plan.method.name}: "
            f"use --method {about['method']}"
        )
    if why := plan.method.untrainable(adapter):
        raise ConfigError(f"training cannot go on from --parent {plan.run.parent}: {why}")
    talk = adapter.conversation
    if talk is not None and talk.steps and not prepared.splits.train[0].tools:
        raise ConfigError(f"--parent {plan.run.parent} calls tools: name them with --tools")
    if adapter.reward is not None and not plan.objective.scores:
        raise ConfigError(
            f"--parent {plan.run.parent} is a reward model, which writes no texts: go on from "
            "another model"
        )
    return plan.method.go_on(adapter, bank, plan.config, start)


def _start(plan: Plan, prepared: Prepared) -> Start:
    """What a method may begin from: replies of the first step, in the order of training."""
    generator = torch.Generator().manual_seed(plan.train.seed)
    first = Shuffled(prepared.rows["train"], plan.train.batch_size, plan.train.seed).rows(0)
    replies = [
        tuple((s.ids if s.supervised is None else s.ids[s.supervised]).tolist())
        for row in first
        for s in row.sequences
    ]
    tokenizer = prepared.template.tokenizer

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    return Start(generator, replies, encode, tuple(sorted(prepared.template.added.values())))


def _foreign_base(about: dict[str, Any], own: BaseInfo) -> str | None:
    """Why what was made on the base that `about` names cannot go on with another one; None where it is
    the same. An adapter of other weights fits where shapes are equal, and answers nonsense."""
    made_on = about.get("base") or {}
    digest = made_on.get("digest")
    if not digest or digest == own.digest:
        return None
    return (
        f"was made on the base {made_on.get('name') or 'that it names'} ({digest[:8]}), not on "
        f"{own.name} ({own.digest[:8]}): use --base {made_on.get('spec') or made_on.get('name')}, or "
        "another parent"
    )


def _texts(splits: Splits) -> Iterator[str]:
    for example in splits.train:
        yield example.text or "\n".join(m["content"] for m in example.messages)
