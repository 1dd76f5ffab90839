"""A tiny training, and tiny data for whole runs on a base made from scratch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from rung.forward.adapter import Adapter
from rung.forward.bank import Bank
from rung.forward.trie import Sequence
from rung.objectives import Objective, Row, RowSource
from rung.train.checkpoint import State
from rung.train.gradient import Passes
from rung.train.loop import Trainer
from rung.train.observers import Observer, Observers
from rung.train.plan import Plan
from rung.train.prepare import Prepared
from rung.train.run_log import RunLog
from rung.train.sources import Shuffled
from tests.models import VOCABULARY, tiny_adapter, tiny_model

SCRATCH = "scratch:layers=2,width=32,heads=2,vocab=300,context=256"


def row_of(ids: Iterable[int], supervised: Iterable[bool], origin: str = "") -> Row:
    """A row as supervised fine-tuning makes it."""
    tokens = Sequence(tuple(ids), tuple(supervised))
    return Row(sequences=(tokens,), weight=float(tokens.supervised.sum()), origin=origin)


def rows(count: int = 24, seed: int = 0) -> list[Row]:
    """Rows that begin alike and end in one of four ways, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    stem = tuple(torch.randint(3, VOCABULARY, (6,), generator=generator).tolist())
    endings = torch.randint(3, VOCABULARY, (4, 5), generator=generator).tolist()
    made = []
    for i in range(count):
        own = int(torch.randint(3, VOCABULARY, (1,), generator=generator))
        ids = (*stem, own, *endings[i % 4])
        made.append(row_of(ids, (False,) * 7 + (True,) * 5, f"rows:{i + 1}"))
    return made


@dataclass
class Work:
    """A tiny training to be, whose parts a test may change before `trainer`."""

    prepared: Prepared
    plan: Plan
    adapter: Adapter
    source: RowSource
    folder: Path | None
    observer: Observer = field(default_factory=Observer)
    stopping: Callable[[], bool] = lambda: False

    @property
    def bank(self) -> Bank:
        return self.prepared.bank

    @property
    def train(self) -> list[Row]:
        return self.prepared.rows["train"]

    @cached_property
    def slot(self) -> int:
        """The adapter's in the bank, for tests that go around a trainer."""
        return self.bank.add(self.adapter)

    @property
    def objective(self) -> Objective:
        return self.plan.objective

    @property
    def passes(self) -> Passes:
        return Passes(bank=self.bank, objective=self.objective, slot=self.slot)

    def trainer(self) -> Trainer:
        observers = Observers.of(self.folder and RunLog(self.folder / "log.jsonl"), self.observer)
        return Trainer(
            self.prepared, self.plan, self.adapter, self.source, observers,
            folder=self.folder, stopping=self.stopping,
        )  # fmt: skip

    def run(self) -> State:
        with self.trainer() as trainer:
            return trainer.run()


def tiny_plan(method: str = "lora", **settings: Any) -> Plan:
    """A plan over rows that are in memory."""
    given = {"lr": 1e-2, "epochs": 2.0, "batch_size": 4, "save_every": 3, "max_tokens": 10_000}
    return Plan.of("tiny", {"data": "rows", "method": method, **given, **settings})


def prepared_of(bank: Bank, **rows: list[Row]) -> Prepared:
    """Rows as training sees them, which came from nowhere."""
    nothing: Any = None
    return Prepared(
        base=nothing, dataset=nothing, splits=nothing, template=nothing, bank=bank, rows=rows
    )  # fmt: skip


def work_of(
    path: Path | None,
    method: str = "lora",
    place: Callable[[Any], None] = lambda model: None,
    **settings: Any,
) -> Work:
    """The same work whenever it is asked for, its checkpoints in `path`; `place` has the base first."""
    torch.manual_seed(0)
    model = tiny_model()
    place(model)
    bank = Bank(model)
    if path:
        path.mkdir(exist_ok=True)
    plan = tiny_plan(method, **settings)
    prepared = prepared_of(bank, train=rows(), validation=rows(6, seed=0))
    source = Shuffled(prepared.rows["train"], plan.train.batch_size, plan.train.seed)
    own = {k: v for k, v in settings.items() if k in plan.method.Config.__dataclass_fields__}
    return Work(prepared, plan, tiny_adapter(bank, method, **own), source, path)


@pytest.fixture
def make_work(tmp_path: Path) -> Callable[..., Work]:
    """A function that builds the same work again and again."""

    def make(method: str = "lora", folder: str | None = None, **settings: Any) -> Work:
        return work_of(tmp_path / folder if folder else None, method, **settings)

    return make


@pytest.fixture
def quotes(tmp_path) -> Path:
    """A small instruction data set on disk."""
    path = tmp_path / "quotes.jsonl"
    words = ["rise", "shine", "go on", "try again", "be kind", "hold fast"]
    lines = [
        {
            "prompt": f"Coach me, number {i}.",
            "completion": f"{words[i % 6]} and {words[i % 5]}!",
        }
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
