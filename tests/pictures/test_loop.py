"""The loop of picture trainings: how it ends when its time is over."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rung.errors import Interrupted, OutOfTime
from rung.methods.pictures.loop import Loop
from rung.train.knobs import TrainKnobs


@dataclass(kw_only=True)
class Line(Loop):
    """Two labels by one number of each row."""

    weight: Tensor
    rows: Tensor

    @property
    def trained(self):
        return {"weight": self.weight}

    def logits(self, rows, step=None):
        return self.rows[rows, None] * self.weight

    def finished(self):
        raise NotImplementedError


def line(after, fault):
    """A loop that is asked to stop behind so many steps, and what it notes."""
    asked, notes = iter(range(100)), []

    def stopping():
        if next(asked) >= after:
            raise fault
        return False

    knobs = TrainKnobs(lr=0.1, batch_size=2, epochs=10.0, eval_every=3)
    study = SimpleNamespace(training=knobs, seed=0, stopping=stopping, note=notes.append)
    torch.manual_seed(0)
    values = torch.randn(8)
    made = Line(
        study=study, codes=(values > 0).long(), count=6, size=4, weight=torch.zeros(2), rows=values
    )  # fmt: skip
    return made, notes


def test_a_training_whose_time_is_over_keeps_what_it_learnt():
    loop, notes = line(2, OutOfTime("was not done within 600 s"))
    loop.run()
    assert notes == ["ended at step 2: its time was over"]
    assert loop.history[-1]["step"] == 2
    assert loop.history[-1]["validation_loss"] < loop.history[0]["validation_loss"]
    assert loop.weight.abs().sum() > 0 and not loop.weight.requires_grad


@pytest.mark.parametrize(("after", "fault"), [(0, OutOfTime("was not done")), (2, Interrupted("run"))])
def test_one_that_learnt_nothing_or_is_stopped_gives_nothing(after, fault):
    loop, _ = line(after, fault)
    with pytest.raises(type(fault)):
        loop.run()
