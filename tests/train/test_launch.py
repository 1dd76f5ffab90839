"""Two that train together make the training of one: same gradient, same end, one of them writes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rung import launch
from rung.errors import ConfigError, Interrupted
from rung.train import checkpoint
from rung.train.gradient import Gradients


class Together(launch.Launch):
    """Threads that stand for processes; each knows its rank by its own name."""

    size = 2

    def __init__(self, name: str = "together"):
        super().__init__(name)
        self.own = threading.local()
        self.meeting = threading.Barrier(self.size, timeout=60)
        self.given: dict[int, Any] = {}

    @property
    def rank(self) -> int:  # type: ignore[override]
        return self.own.rank

    def share(self, rows):
        return rows[self.rank :: self.size]

    def add(self, tensors):
        for mine, theirs in zip(tensors, self._gathered([t.clone() for t in tensors]), strict=True):
            mine.add_(theirs)

    def agree(self, flag):
        return self._gathered(flag) or flag

    def barrier(self):
        self.meeting.wait()

    def _gathered(self, given):
        """What the other one gave."""
        self.given[self.rank] = given
        self.meeting.wait()
        found = self.given[1 - self.rank]
        self.meeting.wait()
        return found

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        """Do the work as every rank at once -> what each gave or raised."""
        found: list[Any] = [None] * self.size

        def one(rank: int) -> None:
            self.own.rank = rank
            try:
                found[rank] = work(rank)
            except BaseException as fault:  # noqa: BLE001 - the test looks at it
                found[rank] = fault

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


@pytest.fixture
def together(monkeypatch) -> Together:
    made = Together()
    monkeypatch.setitem(launch.registry._made, "together", made)
    return made


@pytest.mark.parametrize("count", [1, 9])
def test_the_gradient_is_that_of_one(make_work, together, count):
    alone = make_work()
    parameters = alone.adapter.trainable().parameters()
    rows = alone.train[:count]  # with one row, one of them has none
    whole = Gradients(alone.passes, parameters, 30, print).of(rows, 0)
    works = [make_work(), make_work()]

    def gradient(rank):
        passes, own = works[rank].passes, works[rank].adapter.trainable().parameters()
        return Gradients(passes, own, 30, print, launch=together).of(rows, 0)

    for found in together.run(gradient):
        assert found.metrics == pytest.approx(whole.metrics, abs=1e-6)
        assert found.tokens == whole.tokens
        for a, b in zip(found.tensors, whole.tensors, strict=True):
            assert torch.allclose(a, b, atol=1e-6, rtol=1e-5)


def test_a_training_ends_as_that_of_one_and_one_writes(make_work, together):
    alone = make_work("lora", "alone")
    alone.run()
    works = [make_work("lora", f"rank{rank}", launch="together") for rank in range(2)]
    states = together.run(lambda rank: works[rank].run())
    assert [s.step for s in states] == [12, 12]
    weights = [w.adapter.parameters() for w in works]
    for name, tensor in alone.adapter.parameters().items():
        assert torch.equal(weights[0][name], weights[1][name])
        assert torch.allclose(weights[0][name], tensor, atol=1e-3)
    kept = [bool(checkpoint.steps(w.folder / "checkpoints")) for w in works]
    assert kept == [True, False]


def test_who_is_asked_to_stop_stops_all_at_the_same_step(make_work, together):
    works = [make_work("lora", f"rank{rank}", launch="together") for rank in range(2)]
    asked = iter(range(100))
    works[1].stopping = lambda: next(asked) >= 4
    ended = together.run(lambda rank: works[rank].run())
    assert all(isinstance(e, Interrupted) for e in ended)
    found, _ = checkpoint.newest(works[0].folder / "checkpoints")
    assert found.state.step == 4


def test_names_of_launches_are_checked(make_work):
    assert "local" in launch.names()
    with pytest.raises(ConfigError, match="did you mean 'local'"):
        make_work(launch="locale")
