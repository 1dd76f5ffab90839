"""What a training writes to a log, where no bar can be drawn."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rung.cli import progress
from rung.train.observers import Step


def test_lines_of_a_log_say_how_long_the_rest_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = [100.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    terminal = progress.Terminal()
    terminal.console = Console(file=out, width=200)
    terminal.begin(102, 2)  # resumed: what was done before says nothing of the pace
    for step in range(3, 103):
        clock[0] += 2.0
        terminal.step(
            Step(step=step, metrics={"loss": 1.0}, lr=1.0, gradient_norm=1.0, tokens=100, seconds=2.0)
        )
    lines = [line.strip() for line in out.getvalue().splitlines() if line.strip().startswith("step")]
    assert lines[0] == "step  5 of 102: loss 1.000, 50 tokens/s, 3 min left at most"  # after 6 s
    assert lines[1] == "step  21 of 102: loss 1.000, 50 tokens/s, 3 min left at most"  # and 32 s more
    assert len(lines) == 7 and "85 of 102" in lines[5] and "34 s left at most" in lines[5]
