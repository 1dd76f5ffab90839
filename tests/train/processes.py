"""Trainings as one process of several does them, for tests that start it by torchrun.

python -m torch.distributed.run --nproc-per-node 2 -m tests.train.processes FOLDER JSON

JSON lists trainings, one mapping each: `name` of its folder and of the file of its weights, `method`,
`stop` at a step (or null), `shard` the base or not, and further settings of the plan.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from rung import launch
from rung.errors import Interrupted
from tests.train.conftest import Work, work_of


class Until:
    """Asks to stop before a step, counted from 0, of the rank that is named."""

    def __init__(self, work: Work, step: int, rank: int):
        self.work, self.step, self.rank, self.asked = work, step, rank, 0

    def __call__(self) -> bool:
        self.asked += 1
        return launch.chosen("local").rank == self.rank and self.asked > self.step


def train(folder: Path, given: dict[str, Any]) -> None:
    """Train as one of the processes; that of rank 0 writes FOLDER/NAME.safetensors at the end."""
    name, method, stop = given.pop("name"), given.pop("method"), given.pop("stop", None)
    together = launch.chosen("local")
    together.join("cpu")
    settings = {"patience": 0, "eval_every": 7, "save_every": 1000, **given}

    def place(model: Any) -> None:
        if settings.get("shard"):
            together.shard(model, "float32", "cpu")

    work = work_of(folder / name, method, place, **settings)
    if stop is not None:
        work.stopping = Until(work, stop, together.size - 1)
    try:
        work.run()
    except Interrupted:
        return
    if together.main:
        tensors = {n: t.detach().contiguous().clone() for n, t in work.adapter.parameters().items()}
        save_file(tensors, folder / f"{name}.safetensors")


if __name__ == "__main__":
    for training in json.loads(sys.argv[2]):
        train(Path(sys.argv[1]), training)
