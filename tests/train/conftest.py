"""A tiny training, and tiny data for whole runs on a base made from scratch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rung import objectives
from rung.forward.bank import Bank
from rung.train.knobs import TrainKnobs
from rung.train.loop import Work
from rung.train.order import Order
from rung.types import Rendered
from tests.models import VOCABULARY, tiny_adapter, tiny_model

SCRATCH = "scratch:layers=2,width=32,heads=2,vocab=300,context=256"


def rows(count: int = 24, seed: int = 0) -> list[Rendered]:
    """Rows that begin alike and end in one of four ways, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    stem = tuple(torch.randint(3, VOCABULARY, (6,), generator=generator).tolist())
    endings = torch.randint(3, VOCABULARY, (4, 5), generator=generator).tolist()
    made = []
    for i in range(count):
        own = int(torch.randint(3, VOCABULARY, (1,), generator=generator))
        ids = (*stem, own, *endings[i % 4])
        made.append(Rendered(ids, (False,) * 7 + (True,) * 5, f"rows:{i + 1}"))
    return made


@pytest.fixture
def make_work(tmp_path):
    """A function that builds the same work again and again."""

    def make(method: str = "lora", folder: str | None = None, **settings) -> Work:
        torch.manual_seed(0)
        bank = Bank(tiny_model())
        adapter = tiny_adapter(bank, method)
        given = {"lr": 1e-2, "epochs": 2.0, "batch_size": 4, "save_every": 3, **settings}
        knobs = TrainKnobs(**{k: v for k, v in given.items() if k != "max_tokens"})
        train, path = rows(), (tmp_path / folder if folder else None)
        if path:
            path.mkdir(exist_ok=True)
        return Work(
            bank, adapter, bank.add(adapter), objectives.get("sft"), train, rows(6, seed=0), knobs,
            settings.get("max_tokens", 10_000), Order(len(train), knobs.batch_size, knobs.seed), path,
        )  # fmt: skip

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
